"""Reads the dead letters: the newest of all partitions, or the one at its coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from connectors.kafka.committed import CommittedReader
from schemas.errors import WireError
from schemas.letters import is_cut
from schemas.topics import DEAD_LETTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from confluent_kafka import Message

    from connectors.kafka.options import KafkaOptions
    from schemas.record import Headers
    from schemas.wire import WireCodec

# Markers of transactions take offsets too, about one for each letter: so look further back than asked.
_OFFSETS_A_LETTER: Final = 4
_GAP_MAX: Final = 100  # letters may be large: what is between is read for nothing
NOT_A_LETTER: Final = "not a dead letter"
"""Cause of what somebody else wrote into the topic."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be handled; ``partition`` and ``offset`` are those of the letter itself."""

    partition: int
    offset: int
    from_topic: str
    from_partition: int
    from_offset: int
    key: bytes | None
    value: bytes
    schema_id: int
    """Of the record's frame; -1 if it has none."""
    cause: str
    detail: str
    agent: str
    code_version: str
    attempts: int
    cut: bool
    """Key, value and headers are not whole: the topic did not take them, or the headers cannot be read."""
    time_us: int
    """When the letter was written, by the broker; 0 = not known."""
    headers: Headers = ()
    """Of the record."""
    raised_at: str = ""
    """Where in the agent's code the error was raised, ``file:line in function``; empty = not known."""
    record_time_us: int = 0
    """When the record was appended to its topic, by the broker."""
    generation: int = 0
    """Of the role that could not handle it; 0 = not known."""

    @property
    def id(self) -> str:
        """Its own coordinates, ``partition:offset``: how a letter is asked for."""
        return f"{self.partition}:{self.offset}"


class DeadLetterReader:
    """Reads committed letters without joining a group; to be closed."""

    def __init__(self, kafka: KafkaOptions, codec: WireCodec) -> None:
        self._codec = codec
        self._reader = CommittedReader(kafka, DEAD_LETTERS.named(kafka.topic_prefix))

    def newest(self, limit: int) -> list[DeadLetter]:
        """The newest letters, the newest first. Raises KafkaUnavailable."""
        starts = {}
        for partition in self._reader.partitions():
            low, high = self._reader.bounds(partition)
            starts[partition] = max(low, high - _OFFSETS_A_LETTER * limit)
        letters = [self._letter(message) for message in self._reader.read(starts)]
        letters.sort(key=lambda letter: (letter.time_us, letter.offset), reverse=True)
        return letters[:limit]

    def at(self, partition: int, offset: int) -> DeadLetter | None:
        """The letter at its coordinates, or None if none stands there (any more). Raises KafkaUnavailable."""
        if partition not in self._reader.partitions():
            return None
        low, high = self._reader.bounds(partition)
        if not low <= offset < high:
            return None
        for message in self._reader.read({partition: offset}):
            return self._letter(message) if message.offset() == offset else None
        return None

    def several(self, ids: Iterable[tuple[int, int]]) -> dict[tuple[int, int], DeadLetter]:
        """Return the letters that stand at some coordinates, by these. Raises KafkaUnavailable."""
        found = {}
        for partition, offsets in _runs(ids):
            wanted = set(offsets)
            for message in self._reader.read({partition: min(wanted)}, {partition: max(wanted) + 1}):
                if message.offset() in wanted:
                    found[partition, int(message.offset() or 0)] = self._letter(message)
        return found

    def present(self) -> Iterator[DeadLetter]:
        """Give every letter that stands there now, a partition's oldest first. Raises KafkaUnavailable."""
        for message in self._reader.present():
            yield self._letter(message)

    def close(self) -> None:
        """Let the connection go."""
        self._reader.close()

    def _letter(self, message: Message) -> DeadLetter:
        partition, offset = int(message.partition() or 0), int(message.offset() or 0)
        value = bytes(message.value() or b"")
        try:
            fields = self._codec.decode(value, DEAD_LETTERS.subject)
        except WireError as error:  # somebody else wrote into our topic: show that, too
            fields = {"topic": "", "partition": -1, "offset": -1, "key": message.key(), "value": value}
            fields |= {"cause": NOT_A_LETTER, "detail": str(error)}
        return _letter_of(partition, offset, message.timestamp()[1] * 1_000, fields)


def _runs(ids: Iterable[tuple[int, int]]) -> Iterator[tuple[int, list[int]]]:
    """Give coordinates that are read in one go: of one partition, with small gaps."""
    run: list[int] = []
    at = -1
    for partition, offset in sorted(ids):
        if run and (partition != at or offset - run[-1] > _GAP_MAX):
            yield at, run
            run = []
        at = partition
        run.append(offset)
    if run:
        yield at, run


def _letter_of(partition: int, offset: int, time_us: int, fields: dict[str, Any]) -> DeadLetter:
    return DeadLetter(
        partition=partition,
        offset=offset,
        from_topic=fields["topic"],
        from_partition=fields["partition"],
        from_offset=fields["offset"],
        key=fields["key"],
        value=fields["value"],
        schema_id=fields.get("schema_id", -1),
        cause=fields["cause"],
        detail=fields.get("detail", ""),
        agent=fields.get("agent", ""),
        code_version=fields.get("code_version", ""),
        attempts=fields.get("attempts", 0),
        cut=is_cut(fields.get("detail", "")),
        time_us=max(time_us, 0),
        headers=tuple((header["name"], header["value"]) for header in fields.get("headers", ())),
        raised_at=fields.get("raised_at", ""),
        record_time_us=fields.get("time_us", 0),
        generation=fields.get("generation", 0),
    )
