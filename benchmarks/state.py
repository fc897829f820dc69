"""What state costs a batch agent for each key: one by one beside many at once, without Kafka.

Each unit of work reads the values of its keys, adds to them, writes them back, says them to an output, and is
committed to the store. ``python -m benchmarks.state`` prints CPU microseconds a key.
"""

from __future__ import annotations

import random
import struct
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from connectors import heap
from schemas.topics import TopicSpec
from state.effects import PartitionScope
from state.memory import MemoryBackend
from state.rocksdb import RocksStore
from state.store import Position

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from state.effects import DeadLetters
    from state.store import Backend

UNITS: Final = 40
KEYS_A_UNIT: Final = 10_000
KEYS: Final = 200_000
OUTPUT: Final = TopicSpec("bench.counts.v1", "key", "", 1, -1, "delete", "Counts.")
CHANGELOG: Final = TopicSpec("bench.counts.changelog.v1", "key", "", 1, -1, "compact", "State.")
COUNT: Final = struct.Struct(">qqd")
_EMPTY: Final = bytes(COUNT.size)
_AT: Final = Position("bench", 0, 0)


class _NoLetters:
    """Nothing fails here."""


def one_by_one(scope: PartitionScope, keys: Sequence[bytes]) -> None:
    """Add to each key as an event agent does."""
    for key in keys:
        count, amount, cost = COUNT.unpack(scope.state.get(key) or _EMPTY)
        value = COUNT.pack(count + 1, amount + 2, cost + 0.5)
        scope.state.put(key, value)
        scope.update(OUTPUT, key, value, partition=0)


def read_at_once(scope: PartitionScope, keys: Sequence[bytes]) -> None:
    """Read all keys in one call, write them one by one: what there was before ``put_many``."""
    for key, known in zip(keys, scope.state.multi_get(keys), strict=True):
        count, amount, cost = COUNT.unpack(known or _EMPTY)
        value = COUNT.pack(count + 1, amount + 2, cost + 0.5)
        scope.state.put(key, value)
        scope.update(OUTPUT, key, value, partition=0)


def at_once(scope: PartitionScope, keys: Sequence[bytes]) -> None:
    """Read all keys in one call, and write them in one."""
    known = b"".join([value or _EMPTY for value in scope.state.multi_get(keys)])
    values = [COUNT.pack(n + 1, amount + 2, cost + 0.5) for n, amount, cost in COUNT.iter_unpack(known)]
    scope.state.put_many(keys, values)
    scope.update_many(OUTPUT, keys, values, partition=0)


def measure(backend: Backend, step: Callable[[PartitionScope, Sequence[bytes]], None]) -> tuple[float, float]:
    """Return CPU microseconds a key of the agent's step, and of the store's write."""
    letters: DeadLetters = _NoLetters()  # type: ignore[assignment]
    scope = PartitionScope("bench", 0, backend, CHANGELOG, letters)
    chosen = random.Random(7)  # the same keys for all
    steps_s = writes_s = 0.0
    for _ in range(UNITS):
        keys = [b"sensor-%07d" % number for number in chosen.sample(range(KEYS), KEYS_A_UNIT)]
        began = time.process_time()
        scope.savepoint()
        step(scope, keys)
        scope.keep()
        steps_s += time.process_time() - began
        scope.take_appends()
        began = time.process_time()
        backend.write(scope.view.staged, _AT)
        writes_s += time.process_time() - began
        scope.drop()
    per_key = 1_000_000 / (UNITS * KEYS_A_UNIT)
    return steps_s * per_key, writes_s * per_key


def main() -> None:
    """Print a line for each way and store."""
    heap.freeze(heap.SELDOM)
    print(f"{'store':<9} {'way':<14} {'agent µs/key':>13} {'store µs/key':>13}")
    with tempfile.TemporaryDirectory() as folder:
        store = RocksStore(Path(folder))
        for number, step in enumerate((one_by_one, read_at_once, at_once)):
            for name, backend in (("memory", MemoryBackend()), ("RocksDB", store.partition(number))):
                agent, write = measure(backend, step)
                print(f"{name:<9} {step.__name__:<14} {agent:>13.2f} {write:>13.2f}")
        store.close()


if __name__ == "__main__":
    main()
