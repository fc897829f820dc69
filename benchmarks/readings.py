"""The load of the windows: readings appended before any clock starts, and what their windows must come to."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from benchmarks.appending import Appender, blocks
from benchmarks.windows import FIGURES, INPUT, PARTITIONS, WINDOW_US, output_of
from connectors.kafka.admin import ensure_topics
from connectors.kafka.options import KafkaOptions
from state.binary import pack_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.appending import Reading
    from connectors.registry import Registry
    from schemas.topics import TopicSpec

KEYS: Final = 2_000
SPAN_US: Final = 60_000_000
NOTE_BYTES: Final = 35  # so that a framed value is of 65 bytes, or of 66 where the amount takes two

Figures = tuple[int, int, float]


@dataclass(frozen=True)
class Shape:
    """How readings differ from the usual ones."""

    keys: int = KEYS
    partitions: int = PARTITIONS
    note_bytes: int = NOTE_BYTES
    stride: int = 1
    """From one reading's key to the next one's: 1 = in turn; a large prime scatters them."""
    hot: bool = False
    """Whether one key has half of the readings."""

    def key(self, number: int) -> str:
        """Return the key of a reading by its number."""
        index = 0 if self.hot and number % 2 == 0 else number * self.stride % self.keys
        return f"s-{index:04d}"


EVEN: Final = Shape()


@dataclass(frozen=True)
class Load:
    """Readings on an input topic; contenders read the same ones, each in a group of its own."""

    kafka: KafkaOptions
    count: int
    value_bytes: int
    expected: Mapping[bytes, Figures]
    """By output key: how many, the sum of amounts, the sum of costs."""
    input: TopicSpec = INPUT
    role: str = "windows"

    def output(self, tag: str) -> TopicSpec:
        """Return the topic of a contender's windows."""
        return replace(output_of(tag), partitions=self.input.partitions)

    def check(self) -> LastWindows:
        """Return a check that has seen nothing yet."""
        return LastWindows(self)

    def difference(self, found: Mapping[bytes, bytes]) -> str:
        """Say where the last value of a window is not what it must be; empty = nowhere."""
        missing, foreign = self.expected.keys() - found.keys(), found.keys() - self.expected.keys()
        if missing or foreign:
            return f"{len(missing)} of {len(self.expected)} windows missing, {len(foreign)} unknown"
        wrong = sum(not same(FIGURES.unpack(found[key]), figures) for key, figures in self.expected.items())
        return f"{wrong} of {len(self.expected)} windows wrong" if wrong else ""


@dataclass
class LastWindows:
    """A ``readback.Check``: the last value of each window and key is what the load gives."""

    load: Load
    found: dict[bytes, bytes] = field(default_factory=dict)

    def see(self, key: bytes, value: bytes | None) -> None:
        """See ``Check``."""
        self.found[key] = value or b""

    def difference(self) -> str:
        """See ``Check``."""
        return self.load.difference(self.found)


def make_load(bootstrap_servers: str, registry: Registry, count: int, of: int, shape: Shape = EVEN) -> Load:
    """Append the first ``count`` readings of a load of ``of`` to a topic of their own.

    Raises:
        RuntimeError: Kafka does not take them.
    """
    kafka = KafkaOptions(bootstrap_servers, f"bench{time.time_ns()}.")
    spec = replace(INPUT, partitions=shape.partitions)
    ensure_topics(kafka, [spec])
    appender = Appender(kafka, spec, registry)
    # Event time ends now, as a stream's does: a peer's changelog would lose older state to retention.
    began_us = time.time_ns() // 1_000 // WINDOW_US * WINDOW_US - SPAN_US
    expected: dict[bytes, Figures] = {}
    for rows in blocks(_readings(shape, count, of, began_us)):
        sum_up(expected, rows)
        appender.append(rows)
    appender.flush()
    return Load(kafka, count, appender.size_bytes // count, expected, spec)


def _readings(shape: Shape, count: int, of: int, began_us: int) -> Iterator[Reading]:
    note = "x" * shape.note_bytes
    for number in range(count):
        time_us = began_us + number * SPAN_US // of
        yield shape.key(number), time_us, number % 97, number % 13 / 10, note


def sum_up(expected: dict[bytes, Figures], rows: Sequence[Reading]) -> None:
    """Compute plainly what the contenders compute."""
    for sensor, time_us, amount, cost, _note in rows:
        key = pack_time(time_us // WINDOW_US * WINDOW_US) + sensor.encode()
        n, amounts, costs = expected.get(key, (0, 0, 0.0))
        expected[key] = n + 1, amounts + amount, costs + cost


def same(found: tuple[float, ...], wanted: Figures) -> bool:
    """Whole numbers to the last one; sums of floats differ with the order of the additions."""
    return found[:2] == wanted[:2] and math.isclose(found[2], wanted[2], rel_tol=1e-9, abs_tol=1e-9)
