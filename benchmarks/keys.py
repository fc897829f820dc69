"""The load of the keys: each key once in random order, then a fifth of them again; and the check of it.

The truth about ten million keys is kept by their index, in three bytes each, not in a dict.
"""

from __future__ import annotations

import random
import string
import time
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from benchmarks.appending import Appender, blocks
from benchmarks.keyed import ROLE, changelog_of
from benchmarks.windows import FIGURES, INPUT
from connectors.kafka.admin import ensure_topics
from connectors.kafka.birth import is_birth
from connectors.kafka.options import KafkaOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.appending import Reading
    from connectors.registry import Registry
    from schemas.topics import TopicSpec

AGAIN: Final = 5
"""Of the keys one in so many comes a second time."""
_NOISE_BYTES: Final = 1 << 20
_COUNT_MAX, _AMOUNT_MAX = 0xFF, 0xFFFF  # what a byte, and two, can hold
_SEED: Final = 20_261_126


@dataclass(frozen=True)
class KeyLoad:
    """Readings of many keys on an input topic, and what the state must come to."""

    kafka: KafkaOptions
    keys: int
    state_bytes: int
    """Of the value that is kept for each key."""
    counts: bytearray
    """By key index: how many readings."""
    amounts: array[int]
    """By key index: the sum of their amounts."""
    order: array[int]
    """Key indexes as they came first."""
    input: TopicSpec = INPUT
    role: str = ROLE

    @property
    def count(self) -> int:
        """How many readings, those of ``append_more`` included."""
        return sum(self.counts)

    def output(self, tag: str) -> TopicSpec:
        """Return a contender's changelog: the state is what is checked."""
        return changelog_of(tag)

    def check(self) -> FoldedState:
        """Return a check that has seen nothing yet."""
        return FoldedState(self)

    def append_more(self, registry: Registry, indexes: Sequence[int]) -> None:
        """Append one more reading of each of these keys."""
        appender = Appender(self.kafka, self.input, registry)
        for rows in blocks(_readings(indexes, self.state_bytes)):
            self._sum_up(rows)
            appender.append(rows)
        appender.flush()

    def _sum_up(self, rows: Sequence[Reading]) -> None:
        """Compute plainly what the contenders compute."""
        for sensor, _time, amount, _cost, _note in rows:
            index = int(sensor[2:])
            self.counts[index] += 1
            self.amounts[index] += amount


@dataclass
class FoldedState:
    """A ``readback.Check``: the last value of each key in a changelog is what the load gives."""

    load: KeyLoad
    only: Sequence[int] | None = None
    """The keys to look at: not all of them where a changelog is not read from its beginning."""
    counts: bytearray = field(init=False)
    amounts: array[int] = field(init=False)
    strange: int = 0
    """Records that are no state of this work."""

    def __post_init__(self) -> None:
        self.counts = bytearray(self.load.keys)
        self.amounts = array("H", bytes(2 * self.load.keys))

    def see(self, key: bytes, value: bytes | None) -> None:
        """See ``Check``."""
        if is_birth(key):
            return
        if value is None or len(value) != self.load.state_bytes or not key[2:].isdigit():
            self.strange += 1
            return
        index = int(key[2:])
        count, amount, _cost = FIGURES.unpack_from(value)
        if index < self.load.keys and 0 <= count <= _COUNT_MAX and 0 <= amount <= _AMOUNT_MAX:
            self.counts[index], self.amounts[index] = count, amount
        else:
            self.strange += 1

    def difference(self) -> str:
        """See ``Check``."""
        if self.strange:
            return f"{self.strange} records of the changelog are no state of this work"
        load = self.load
        if self.only is None and (self.counts, self.amounts) == (load.counts, load.amounts):
            return ""
        keys = range(load.keys) if self.only is None else self.only
        missing = sum(not self.counts[index] and load.counts[index] > 0 for index in keys)
        wrong = sum(
            (self.counts[index], self.amounts[index]) != (load.counts[index], load.amounts[index])
            for index in keys
        )
        return f"{wrong} of {len(keys)} keys wrong, {missing} of them missing" if wrong else ""


def make_key_load(bootstrap_servers: str, registry: Registry, keys: int, state_bytes: int) -> KeyLoad:
    """Append a reading of each of ``keys`` in random order, and one more of the first fifth of them.

    Raises:
        RuntimeError: Kafka does not take them.
    """
    kafka = KafkaOptions(bootstrap_servers, f"bench{time.time_ns()}.")
    ensure_topics(kafka, [INPUT])
    order = array("I", range(keys))
    random.Random(_SEED).shuffle(order)
    load = KeyLoad(kafka, keys, state_bytes, bytearray(keys), array("H", bytes(2 * keys)), order)
    load.append_more(registry, order)
    load.append_more(registry, order[: keys // AGAIN])
    return load


def _readings(indexes: Sequence[int], state_bytes: int) -> Iterator[Reading]:
    """Give a reading of each key, its note as long as fills the value that is kept.

    Notes are text that does not compress to nothing, as constants would.
    """
    noise = "".join(random.Random(_SEED).choices(string.ascii_letters + string.digits, k=_NOISE_BYTES))
    size = state_bytes - FIGURES.size
    now_us = time.time_ns() // 1_000
    for number, index in enumerate(indexes):
        at = index * 7_919 % (_NOISE_BYTES - size)
        yield f"k-{index:08d}", now_us + number, index % 97, index % 13 / 10, noise[at : at + size]
