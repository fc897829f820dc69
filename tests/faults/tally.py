"""The second agent of the workers under fault: it sums readings up by window, in the ledger's units of work.

What comes of a reading is a function of its partition's log alone, as `tally` says. Which totals stand in
their topic is one of where units ended, too: of those that supersede each other the last, once a unit.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import orjson

from schemas.topics import TopicSpec
from state.watermark import Watermark
from state.windows import TimeWindows, WindowOptions
from tests.faults.ledger import BALANCE, PARTITIONS, Entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from schemas.record import Record
    from state.scope import Scope
    from tests.faults.ledger import Input

AGENT: Final = "tally"
READINGS: Final = TopicSpec("tally.input.v1", "key", "", PARTITIONS, -1, "delete", "readings")
TOTALS: Final = TopicSpec("tally.totals.v1", "key", "", PARTITIONS, -1, "delete", "totals, once a unit")
SAID: Final = TopicSpec("tally.said.v1", "key", "", PARTITIONS, -1, "delete", "what closed, and came late")
TALLIES: Final = TopicSpec("tally.changelog.v1", "key", "", PARTITIONS, -1, "compact", "windows")

WINDOW_MS, GRACE_MS, TTL_MS, DISORDER_MS = 500, 500, 1_500, 200
WINDOWS: Final = TimeWindows(b"w", WindowOptions(WINDOW_MS, GRACE_MS, TTL_MS))
_TIME: Final = struct.Struct(">q")
_TIME_KEY: Final = b"t"
CLOSED_UP_TO, EXPIRED_UP_TO = b"wc", b"wx"
"""Keys under which windows keep how far they have come: the engine's own matter."""
_AT_ONCE: Final = 1_000

Kind = Literal["total", "closed", "late"]


class Effect(NamedTuple):
    """What a reading did to a window: it is in its total, closed it, or came too late for it."""

    kind: Kind
    source_offset: int
    """Of the reading."""
    window: bytes
    count: int = 0
    total: int = 0


def window_name(start_ms: int, key: bytes) -> bytes:
    """What a window is called in the outputs."""
    return b"%d/%s" % (start_ms, key)


def sum_up(scope: Scope, record: Record, unit: int) -> None:
    """Handle one reading."""
    assert record.key is not None
    entry = Entry.decode(record.key, record.value or b"")
    clock = Watermark(DISORDER_MS * 1_000)
    clock.load(scope.state, _TIME_KEY)
    clock.see(entry.time_ms * 1_000, record.timestamp_us)
    clock.save(scope.state, _TIME_KEY)
    count = total = 0
    where = record.partition

    def fold(before: bytes | None) -> bytes:
        nonlocal count, total
        count, total = BALANCE.unpack(before or bytes(BALANCE.size))
        count, total = count + 1, total + entry.amount
        return BALANCE.pack(count, total)

    taken = WINDOWS.add(scope.state, entry.time_ms * 1_000, entry.key, clock.now_us, fold)
    name = window_name(WINDOWS.start_us(entry.time_ms * 1_000) // 1_000, entry.key)
    if taken:
        said = [unit, "total", record.offset, count, total]
        scope.update(TOTALS, name, orjson.dumps(said), partition=where)
    else:
        scope.emit(SAID, name, orjson.dumps([unit, "late", record.offset, 0, 0]), partition=where)
    for window in WINDOWS.closed(scope.state, clock.now_us, _AT_ONCE):
        name = window_name(window.start_us // 1_000, window.key)
        said = [unit, "closed", record.offset, *BALANCE.unpack(window.value)]
        scope.emit(SAID, name, orjson.dumps(said), partition=where)
    WINDOWS.expire(scope.state, clock.now_us, _AT_ONCE)


@dataclass
class Tally:
    """The plain model of the agent: one partition's readings in order, in a dictionary."""

    effects: list[Effect] = field(default_factory=list)
    """In the order in which they are made; totals each, as if none superseded another."""
    windows: dict[tuple[int, bytes], tuple[int, int]] = field(default_factory=dict)
    """Count and sum by start and key, of those that have not expired."""
    _open: set[tuple[int, bytes]] = field(default_factory=set)
    _max_ms: int = 0

    def add(self, given: Input) -> None:
        """Take the next reading of the partition."""
        entry = given.entry
        assert entry is not None
        self._max_ms = max(self._max_ms, entry.time_ms)
        window = (entry.time_ms - entry.time_ms % WINDOW_MS, entry.key)
        if self._is_over(window):
            self.effects.append(Effect("late", given.offset, window_name(*window)))
        else:
            count, total = self.windows.get(window, (0, 0))
            self.windows[window] = (count + 1, total + entry.amount)
            self._open.add(window)
            self._tell("total", given.offset, window)
        for window in sorted(filter(self._is_over, self._open)):
            self._open.remove(window)
            self._tell("closed", given.offset, window)
        for window in [window for window in self.windows if self._is_over(window, TTL_MS)]:
            del self.windows[window]

    def _is_over(self, window: tuple[int, bytes], after_ms: int = 0) -> bool:
        return window[0] + WINDOW_MS + GRACE_MS + after_ms <= self._max_ms - DISORDER_MS

    def _tell(self, kind: Kind, offset: int, window: tuple[int, bytes]) -> None:
        self.effects.append(Effect(kind, offset, window_name(*window), *self.windows[window]))

    @property
    def state(self) -> dict[bytes, bytes]:
        """What must stand in the agent's store, but for its own cursors."""
        if not self._max_ms:
            return {}
        return {_TIME_KEY: _TIME.pack(self._max_ms * 1_000)} | {
            b"ww" + _TIME.pack(start_ms * 1_000) + key: BALANCE.pack(*value)
            for (start_ms, key), value in self.windows.items()
        }


def tally(readings: Iterable[Input]) -> Tally:
    """Return what must come of a partition's ``readings``, given in the log's order."""
    done = Tally()
    for given in readings:
        done.add(given)
    return done


def without_cursors(state: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return what of a store the model speaks of."""
    return {key: value for key, value in state.items() if key not in (CLOSED_UP_TO, EXPIRED_UP_TO)}


def readings(seed: int, keys: int = 12) -> Iterator[tuple[bytes, bytes]]:
    """Give key and value of reading after reading, without an end; one in ten is older than most."""
    rng = random.Random(seed)
    time_ms, number = 1_000_000, 0
    while True:
        number += 1
        time_ms += rng.randrange(20)
        before_ms = rng.randrange(3 * (WINDOW_MS + GRACE_MS) if rng.random() < 0.1 else DISORDER_MS)
        key = b"sensor-%d" % rng.randrange(keys)
        entry = Entry(f"{seed:x}-{number}", key, number, time_ms - before_ms, rng.randrange(1_000))
        yield key, entry.encode()
