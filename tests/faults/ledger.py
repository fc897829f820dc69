"""What the workers under fault do: keep a ledger by key. Its topics, its events, and what must come of them.

What each record comes to is a function of its partition's log alone, so that whatever dies, joins, leaves or
stands still in between, `fold` says what the outputs, the verdicts and the state must be.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

import orjson

from schemas.topics import TopicSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PARTITIONS: Final = 4
INPUT: Final = TopicSpec("ledger.input.v1", "key", "", PARTITIONS, -1, "delete", "entries")
OUTPUT: Final = TopicSpec("ledger.output.v1", "key", "", PARTITIONS, -1, "delete", "entries with balances")
VERDICTS: Final = TopicSpec("ledger.verdicts.v1", "key", "", PARTITIONS, -1, "delete", "what was left out")
CHANGELOG: Final = TopicSpec("ledger.changelog.v1", "key", "", PARTITIONS, -1, "compact", "balances")
CHANGELOGS: Final = {
    spec.cleanup: spec
    for spec in (CHANGELOG, replace(CHANGELOG, cleanup="compact,delete", retention_ms=3_600_000))
}
"""By cleanup: that of an agent all of whose state expires deletes, too."""

GRACE_MS: Final = 5_000
BALANCE: Final = struct.Struct(">qq")
"""A key's state: how many entries, and the sum of their amounts."""
TIME: Final = struct.Struct(">q")
TIME_KEY: Final = b"w"
"""Largest event time that was accepted in the partition, milliseconds."""
POISON: Final = b"poison"
"""The agent raises whenever it meets this value, after it has staged effects of it."""
OVERSIZED: Final = b"oversized"
"""The agent emits an output for it that is larger than the topic takes."""

Kind = Literal["output", "duplicate", "late", "dead"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One event: ``seq`` counts the entries of its key as they were published."""

    event_id: str
    key: bytes
    seq: int
    time_ms: int
    amount: int

    def encode(self) -> bytes:
        """The record's value."""
        return orjson.dumps([self.event_id, self.seq, self.time_ms, self.amount])

    @classmethod
    def decode(cls, key: bytes, value: bytes) -> Entry:
        """Read a record; raises ValueError for what is none."""
        event_id, seq, time_ms, amount = orjson.loads(value)
        return cls(event_id, key, seq, time_ms, amount)


def state_key(key: bytes) -> bytes:
    """Where a key's balance stands."""
    return b"k/" + key


def seen_key(event_id: str) -> bytes:
    """Where it stands that an event was accepted."""
    return b"s/" + event_id.encode()


@dataclass(frozen=True, slots=True)
class Input:
    """A record of the input topic, as it stands in the log; ``entry`` None = it must become a dead letter."""

    partition: int
    offset: int
    entry: Entry | None
    at_s: float = 0.0
    """When the broker appended it, seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What must come of an input: its outcome, and for an output the balance after it."""

    kind: Kind
    count: int = 0
    total: int = 0


@dataclass
class Fold:
    """The plain model of the agent: one partition's input in order, in a dictionary."""

    expected: dict[int, Expected] = field(default_factory=dict)
    """By offset."""
    state: dict[bytes, bytes] = field(default_factory=dict)
    _time_ms: int = 0

    def add(self, given: Input) -> None:
        """Take the next input of the partition."""
        self.expected[given.offset] = self._outcome(given.entry)

    def _outcome(self, entry: Entry | None) -> Expected:
        if entry is None:
            return Expected("dead")
        if seen_key(entry.event_id) in self.state:
            return Expected("duplicate")
        if entry.time_ms < self._time_ms - GRACE_MS:
            return Expected("late")
        count, total = BALANCE.unpack(self.state.get(state_key(entry.key), bytes(BALANCE.size)))
        count, total = count + 1, total + entry.amount
        self._time_ms = max(self._time_ms, entry.time_ms)
        self.state[state_key(entry.key)] = BALANCE.pack(count, total)
        self.state[seen_key(entry.event_id)] = b"1"
        self.state[TIME_KEY] = TIME.pack(self._time_ms)
        return Expected("output", count, total)


def fold(inputs: Iterable[Input]) -> Fold:
    """Return what must come of a partition's ``inputs``, given in the log's order."""
    done = Fold()
    for given in inputs:
        done.add(given)
    return done


def entries(seed: int, keys: int = 60) -> Iterator[tuple[bytes, bytes]]:
    """Give key and value of record after record, without an end; all chance comes from ``seed``.

    About one in fifty repeats an earlier one, one in fifty is late; in three
    thousand one is poison, and one becomes too large.
    """
    rng = random.Random(seed)
    seqs = dict.fromkeys(range(keys), 0)
    recent: list[tuple[bytes, bytes]] = []
    time_ms = 1_000_000
    number = 0
    while True:
        number += 1
        chance = rng.random()
        which = rng.randrange(keys)
        key = b"key-%d" % which
        if chance < 0.02 and recent:
            yield rng.choice(recent)
            continue
        if chance < 0.0206:
            yield key, POISON if chance < 0.0203 else OVERSIZED
            continue
        time_ms += rng.randrange(20)
        at_ms = time_ms - (
            rng.randrange(GRACE_MS, 4 * GRACE_MS) if chance > 0.98 else rng.randrange(GRACE_MS)
        )
        entry = Entry(f"{seed:x}-{number}", key, seqs[which], at_ms, rng.randrange(1_000))
        seqs[which] += 1
        recent = [*recent[-200:], (key, entry.encode())]
        yield recent[-1]
