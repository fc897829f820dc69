"""The load of ``soak``: readings of now at a steady rate, and the check that each window closed once."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from benchmarks.appending import Appender
from benchmarks.closing import ROLE, output_of
from benchmarks.readings import KEYS, NOTE_BYTES, same, sum_up
from benchmarks.windows import FIGURES, INPUT
from schemas.topics import partition_of

if TYPE_CHECKING:
    import threading

    from benchmarks.readings import Figures
    from connectors.kafka.options import KafkaOptions
    from connectors.registry import Registry
    from schemas.topics import TopicSpec

_BLOCK_S: Final = 0.1
_NOTE: Final = "x" * NOTE_BYTES
_AHEAD_US: Final = 60_000_000  # as far as an event may be ahead of its append (state/watermark.py)


@dataclass
class SteadyLoad:
    """A ``race.Load`` that grows while it is worked off."""

    kafka: KafkaOptions
    registry: Registry
    input: TopicSpec = INPUT
    role: str = ROLE
    count: int = 0
    expected: dict[bytes, Figures] = field(default_factory=dict)
    failed: str = ""
    _appender: Appender = field(init=False)

    def __post_init__(self) -> None:
        self._appender = Appender(self.kafka, self.input, self.registry)

    def output(self, tag: str) -> TopicSpec:
        """Return the topic of closed windows."""
        return output_of(tag)

    def check(self) -> EachOnce:
        """Return a check that has seen nothing yet."""
        return EachOnce(self.expected)

    def run(self, rate: int, until: float, stopped: threading.Event) -> None:
        """Append until then (monotonic clock), or until stopped; what breaks it is left in ``failed``."""
        try:
            began = time.monotonic()
            while not stopped.wait(_BLOCK_S) and (now := time.monotonic()) < until:
                self.append(int((now - began) * rate) - self.count)
        except Exception as error:  # noqa: BLE001  a thread's death would be silent
            self.failed = repr(error)

    def append(self, events: int) -> None:
        """Append so many readings of now."""
        now_us = time.time_ns() // 1_000
        rows = [
            (f"s-{number % KEYS:04d}", now_us, number % 97, number % 13 / 10, _NOTE)
            for number in range(self.count, self.count + events)
        ]
        sum_up(self.expected, rows)
        self._appender.append(rows)
        self.count += events

    def end(self) -> None:
        """Move each partition's time on, so that all windows close: one reading each, of a key of its own."""
        ahead_us = time.time_ns() // 1_000 + _AHEAD_US
        keys: dict[int, str] = {}
        number = 0
        while len(keys) < self.input.partitions:
            key = f"end-{number}"
            keys.setdefault(partition_of(key.encode(), self.input.partitions), key)
            number += 1
        self._appender.append([(key, ahead_us, 0, 0.0, "") for key in keys.values()])
        self.count += len(keys)
        self._appender.flush()


@dataclass
class EachOnce:
    """A ``readback.Check``: each window once, with its sums."""

    expected: dict[bytes, Figures]
    found: dict[bytes, bytes] = field(default_factory=dict)
    twice: int = 0

    def see(self, key: bytes, value: bytes | None) -> None:
        """See ``Check``."""
        self.twice += key in self.found
        self.found[key] = value or b""

    def difference(self) -> str:
        """See ``Check``."""
        missing, foreign = self.expected.keys() - self.found.keys(), self.found.keys() - self.expected.keys()
        if missing or foreign or self.twice:
            return (
                f"of {len(self.expected)} windows {len(missing)} never closed, {self.twice} closed twice, "
                f"{len(foreign)} unknown"
            )
        wrong = sum(
            not same(FIGURES.unpack(self.found[key]), figures) for key, figures in self.expected.items()
        )
        return f"{wrong} of {len(self.expected)} windows wrong" if wrong else ""
