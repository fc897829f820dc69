"""The load of the windows: readings appended before any clock starts, and what their windows must come to."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pyarrow as pa
from confluent_kafka import Producer
from pyruhvro import serialize_record_batch

from benchmarks.windows import FIGURES, INPUT, SCHEMA, SUBJECT, WINDOW_US
from connectors.kafka.admin import ensure_topics
from connectors.kafka.options import KafkaOptions
from state.binary import pack_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from connectors.registry import Registry

KEYS: Final = 2_000
SPAN_US: Final = 60_000_000
NOTE: Final = "x" * 35  # so that a framed value is of 65 bytes, or of 66 where the amount takes two
COLUMNS: Final = ("sensor", "time", "amount", "cost", "note")
_BLOCK: Final = 50_000
_QUEUE_MAX: Final = 500_000

Figures = tuple[int, int, float]


@dataclass(frozen=True)
class Load:
    """Readings on an input topic; contenders read the same ones, each in a group of its own."""

    kafka: KafkaOptions
    count: int
    value_bytes: int
    expected: Mapping[bytes, Figures]
    """By output key: how many, the sum of amounts, the sum of costs."""

    def difference(self, found: Mapping[bytes, bytes]) -> str:
        """Say where the last value of a window is not what it must be; empty = nowhere."""
        missing, foreign = self.expected.keys() - found.keys(), found.keys() - self.expected.keys()
        if missing or foreign:
            return f"{len(missing)} of {len(self.expected)} windows missing, {len(foreign)} unknown"
        wrong = sum(not _same(FIGURES.unpack(found[key]), figures) for key, figures in self.expected.items())
        return f"{wrong} of {len(self.expected)} windows wrong" if wrong else ""


def make_load(bootstrap_servers: str, registry: Registry, count: int, of: int) -> Load:
    """Append the first ``count`` readings of a load of ``of`` to a topic of their own.

    Raises:
        RuntimeError: Kafka does not take them.
    """
    kafka = KafkaOptions(bootstrap_servers, f"bench{time.time_ns()}.")
    ensure_topics(kafka, [INPUT])
    registry.register(SUBJECT, SCHEMA)
    frame = b"\x00" + registry.id_of(SUBJECT).to_bytes(4, "big")
    # Event time ends now, as a stream's does: a peer's changelog would lose older state to retention.
    began_us = time.time_ns() // 1_000 // WINDOW_US * WINDOW_US - SPAN_US
    producer = Producer(
        kafka.client_config()
        | {
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "enable.idempotence": True,
            "log_level": 3,  # a new broker makes it wait for its id, and it says so at every attempt
            "queue.buffering.max.messages": _QUEUE_MAX,
        }
    )
    expected: dict[bytes, Figures] = {}
    size_bytes = 0
    for first in range(0, count, _BLOCK):
        rows = list(_readings(range(first, min(first + _BLOCK, count)), of, began_us))
        _sum_up(expected, rows)
        for row, body in zip(rows, _encoded(rows), strict=True):
            value = frame + body
            size_bytes += len(value)
            while True:
                try:
                    producer.produce(INPUT.named(kafka.topic_prefix), value, row[0].encode())
                except BufferError:
                    producer.poll(0.1)
                else:
                    break
        producer.poll(0)
    if producer.flush(120):
        raise RuntimeError("Kafka did not take the load in two minutes")
    return Load(kafka, count, size_bytes // count, expected)


def _readings(numbers: Iterable[int], of: int, began_us: int) -> Iterator[tuple[str, int, int, float, str]]:
    for number in numbers:
        time_us = began_us + number * SPAN_US // of
        yield f"s-{number % KEYS:04d}", time_us, number % 97, number % 13 / 10, NOTE


def _encoded(rows: list[tuple[str, int, int, float, str]]) -> Iterator[bytes]:
    batch = pa.record_batch(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))
    for part in serialize_record_batch(batch, SCHEMA, 1):
        yield from part.to_pylist()


def _sum_up(expected: dict[bytes, Figures], rows: list[tuple[str, int, int, float, str]]) -> None:
    """Compute plainly what the contenders compute."""
    for sensor, time_us, amount, cost, _note in rows:
        key = pack_time(time_us // WINDOW_US * WINDOW_US) + sensor.encode()
        n, amounts, costs = expected.get(key, (0, 0, 0.0))
        expected[key] = n + 1, amounts + amount, costs + cost


def _same(found: Figures, wanted: Figures) -> bool:
    """Whole numbers to the last one; sums of floats differ with the order of the additions."""
    return found[:2] == wanted[:2] and math.isclose(found[2], wanted[2], rel_tol=1e-9, abs_tol=1e-9)
