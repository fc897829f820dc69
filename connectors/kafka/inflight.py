"""Which records agents have in hand, noted where it outlives the process: so the event that ends it is found.

1. A chunk is noted when it is handed out and taken off when the agent is done: in a file that is mapped into
   memory, which survives a kill, a crash of native code and a lack of memory, as the kernel has it.
2. A start that finds notes remembers their records. A process may be killed for many reasons; records with
   which it ended twice are suspects, and handed out one by one, alone in the role: the next crash names one.
3. An event with which, alone, the process has ended is tried as often as one that raises, at most three
   times, then given up.

What a process was asked to stop with is not suspected, nor what was committed since.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import struct
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from connectors.kafka.chunk import SourcePartition

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from schemas.record import Record

log = structlog.get_logger(__name__)

_NOTE: Final = struct.Struct(">?iqqqiH249s")  # held, partition, first, next, records, crashes, topic's name
_TOPICS: Final = 16
"""Notes that a file has room for at first: a role reads a few topics."""
_CRASHES_SUSPICIOUS: Final = 2  # one by one takes many times as long: no way to come back from any kill
_SUSPECTS_MAX: Final = 256  # ranges: a note a topic and crash, and each goes when it is passed


@dataclass(frozen=True, slots=True)
class Suspect:
    """Records that were in an agent's hands when the process ended."""

    topic: str
    partition: int
    first: int
    next_offset: int
    records: int
    crashes: int
    """How often the process ended with them, or with a chunk that they were in."""

    @property
    def source(self) -> SourcePartition:
        """Their partition."""
        return SourcePartition(self.topic, self.partition)


class Span(Protocol):
    """Consecutive records of a partition: a chunk, or what is to become one."""

    @property
    def source(self) -> SourcePartition:
        """Their partition."""

    @property
    def first(self) -> Record:
        """The record with the lowest offset."""

    @property
    def next_offset(self) -> int:
        """Where the partition stands after them."""

    def __len__(self) -> int:
        """How many."""


class InFlight:
    """The notes of one part of a role, in its slot's folder; used on one thread.

    Args:
        folder: without one nothing is noted.
        name: of its files.
        believed: whether what is noted there is to blame for the end of the process before.
    """

    def __init__(self, folder: Path | None = None, name: str = "IN_FLIGHT", *, believed: bool = True) -> None:
        self.found = False
        """The process before ended with a note of this kind."""
        self._suspects: dict[SourcePartition, list[Suspect]] = {}
        self._slots: dict[str, int] = {}  # topic -> where its note stands
        self._held: set[str] = set()
        self._kept = None if folder is None else folder / f"{name}.suspects"
        self._notes: _Notes | None = None
        if folder is not None:
            self._open(folder / name, believed=believed)

    def _open(self, file: Path, *, believed: bool) -> None:
        """Suspect what is noted, then begin anew; killed in between, the next start does the same again."""
        assert self._kept is not None
        found = {(one.source, one.first, one.next_offset): one for one in _kept_in(self._kept)}
        for one in _noted_in(file) if believed else ():
            found[one.source, one.first, one.next_offset] = one
            self.found = True
            log.warning("the process ended with records in hand", **_words(one))
        for one in list(found.values())[-_SUSPECTS_MAX:]:
            self._suspects.setdefault(one.source, []).append(one)
        self._keep()
        try:
            self._notes = _Notes(file)
        except OSError as error:
            _unnoted(error)

    # -- notes ----------------------------------------------------------------------------------------

    def handed_out(self, chunk: Span) -> None:
        """Note a chunk that an agent is about to be given."""
        if self._notes is None:
            return
        topic, partition = chunk.source
        first = chunk.first.offset
        note = _NOTE.pack(
            False,  # noqa: FBT003  a field of the format, which is set last
            partition,
            first,
            chunk.next_offset,
            len(chunk),
            self._crashes_of(chunk) if self._suspects else 0,
            len(topic),
            topic.encode(),
        )
        try:
            self._notes.write(self._slots.setdefault(topic, len(self._slots)), note)
        except OSError as error:
            _unnoted(error)
            self.close()
        else:
            self._held.add(topic)

    def taken_back(self, topic: str) -> None:
        """Take the note of a topic's chunk off: its agent has nothing in hand."""
        if topic in self._held and self._notes is not None:
            self._held.discard(topic)
            self._notes.take_off(self._slots[topic])

    def close(self) -> None:
        """Take all notes off and note no more: the process ends on purpose."""
        for topic in list(self._held):
            self.taken_back(topic)
        if self._notes is not None:
            self._notes.close()
            self._notes = None

    # -- suspects -------------------------------------------------------------------------------------

    def is_suspect(self, chunk: Span) -> bool:
        """Say whether a chunk holds records with which the process has ended again."""
        return any(one.crashes >= _CRASHES_SUSPICIOUS for one in self._overlapping(chunk))

    def crashes_alone(self, chunk: Span) -> int:
        """Return how often the process has ended with this one record; 0 if it never was alone in hand."""
        return max((one.crashes for one in self._overlapping(chunk) if one.records == 1), default=0)

    def acquit(self, chunk: Span) -> None:
        """Begin to count anew for one record: its partition stands before it, and a next start may try it."""
        alone = [one for one in self._overlapping(chunk) if one.records == 1]
        suspects = self._suspects.get(chunk.source, [])
        self._replace(chunk.source, [one for one in suspects if one not in alone])

    def passed(self, positions: Mapping[SourcePartition, int]) -> None:
        """Forget those below positions that are committed."""
        for source in self._suspects.keys() & positions.keys():
            left = [one for one in self._suspects[source] if one.next_offset > positions[source]]
            self._replace(source, left)

    def _crashes_of(self, chunk: Span) -> int:
        return max((one.crashes for one in self._overlapping(chunk)), default=0)

    def _overlapping(self, chunk: Span) -> Iterator[Suspect]:
        first, end = chunk.first.offset, chunk.next_offset
        for suspect in self._suspects.get(chunk.source, ()):
            if suspect.first < end and first < suspect.next_offset:
                yield suspect

    def _replace(self, source: SourcePartition, suspects: list[Suspect]) -> None:
        if suspects == self._suspects.get(source, []):
            return
        self._suspects[source] = suspects
        if not suspects:
            del self._suspects[source]
        self._keep()

    def _keep(self) -> None:
        """Keep the suspects for the next start: a crash with other records must not have them forgotten."""
        if self._kept is None:
            return
        suspects = [asdict(one) for of_source in self._suspects.values() for one in of_source]
        fresh = self._kept.with_name(self._kept.name + ".new")
        try:
            fresh.write_text(json.dumps(suspects))
            fresh.replace(self._kept)
        except OSError as error:
            log.warning("suspects cannot be kept", cause=str(error))


class _Notes:
    """A file of notes of one size, mapped: neither a call of the kernel nor a change of threads a note.

    Its room is taken before it is mapped: the process ends at a page that the disk has no room for. (A file
    system that writes each change to a new place, as btrfs does, can still run out of room for it.)
    """

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._notes = 0
        try:
            self._grow(_TOPICS)
        except OSError:
            os.close(self._file)
            raise

    def write(self, number: int, note: bytes) -> None:
        """Write a note, its first byte last: who is killed meanwhile leaves none that is half written."""
        if number >= self._notes:
            self._grow(max(2 * self._notes, number + 1))
        at = number * _NOTE.size
        self._map[at : at + _NOTE.size] = note
        self._map[at] = True

    def take_off(self, number: int) -> None:
        """Have a note say nothing."""
        self._map[number * _NOTE.size] = False

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
        os.close(self._file)

    def _grow(self, notes: int) -> None:
        room = (notes - self._notes) * _NOTE.size
        if os.pwrite(self._file, bytes(room), self._notes * _NOTE.size) < room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._map = mmap.mmap(self._file, notes * _NOTE.size)
        self._notes = notes


def _unnoted(error: OSError) -> None:
    """The disk is full, say: nothing is lost by it but the knowledge after a crash."""
    log.warning("what agents have in hand cannot be noted", cause=str(error))


def _noted_in(file: Path) -> Iterator[Suspect]:
    data = file.read_bytes() if file.exists() else b""
    for at in range(0, len(data) - _NOTE.size + 1, _NOTE.size):
        held, partition, first, next_offset, records, crashes, length, topic = _NOTE.unpack_from(data, at)
        if held:
            yield Suspect(topic[:length].decode(), partition, first, next_offset, records, crashes + 1)


def _kept_in(file: Path) -> list[Suspect]:
    """Return what an earlier start kept; a file that cannot be read costs some more crashes, no record."""
    try:
        return [Suspect(**one) for one in json.loads(file.read_text())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        log.warning("suspects cannot be read", file=str(file), cause=str(error))
        return []


def _words(suspect: Suspect) -> dict[str, object]:
    return {name: value for name, value in asdict(suspect).items() if name != "next_offset"}
