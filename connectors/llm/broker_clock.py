"""What time it is for the brokers, by whose stamps requests age."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from connectors.kafka.errors import KafkaFailure
from connectors.kafka.stamps import ask_stamp
from connectors.llm.clock import now_us
from connectors.threads import DaemonExecutor
from schemas.topics import LLM_RAW

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from connectors.kafka.options import KafkaOptions

log = structlog.get_logger(__name__)

STAMP_US: Final = 1_000
"""A broker's stamp is a whole millisecond, rounded down."""
DRIFT: Final = 1e-4
"""By how much two clocks may run apart, twice of what quartz does: bounds widen so, and old ones fade."""
SKEW_S: Final = 1.0
"""A clock that is wrong by more is told of; the alert on the metric has the same bound."""
_ASK_S: Final = 5.0


class _Bounds(NamedTuple):
    """What the brokers' clock is ahead of our monotonic one, at the least and at the most, us."""

    low: int
    high: int
    at_us: int
    """When that was learnt, by the monotonic clock."""

    def at(self, monotonic_us: int) -> _Bounds:
        drift_us = round((monotonic_us - self.at_us) * DRIFT)
        return _Bounds(self.low - drift_us, self.high + drift_us, monotonic_us)


class BrokerClock:
    """What time it is for the brokers: a worker whose own clock is wrong ends no request at a wrong time.

    A record is stamped after it was handed over and before it is acknowledged, so each one bounds how far
    apart the clocks are (F. Cristian, Probabilistic clock synchronization, 1989). As long as ours is within
    the bounds it is believed, and what is told is free of a network's delays; else the nearest bound is. They
    are kept against the monotonic clock: to set ours changes nothing. May be used by several threads.
    """

    def __init__(
        self,
        wall_us: Callable[[], int] = now_us,
        monotonic_us: Callable[[], int] = lambda: time.monotonic_ns() // 1_000,
    ) -> None:
        self._wall_us = wall_us
        self._monotonic_us = monotonic_us
        self._bounds: _Bounds | None = None

    def acknowledged(self, stamp_us: int, latency_us: int) -> None:
        """Learn from a record that was just acknowledged, ``latency_us`` after it was handed over."""
        at_us = self._monotonic_us()
        low, high = stamp_us - at_us, stamp_us + STAMP_US + latency_us - at_us
        if self._bounds is not None:
            known = self._bounds.at(at_us)
            if known.low <= high and low <= known.high:  # else the brokers' clock was set, or is another's
                low, high = max(low, known.low), min(high, known.high)
        self._bounds = _Bounds(low, high, at_us)

    def now_us(self) -> int:
        """Return microseconds since 1970 as a broker would stamp them; ours before anything was learnt."""
        return self._believed(self._wall_us(), self._monotonic_us())

    def _believed(self, wall_us: int, monotonic_us: int) -> int:
        if self._bounds is None:
            return wall_us
        known = self._bounds.at(monotonic_us)
        return monotonic_us + min(max(wall_us - monotonic_us, known.low), known.high)

    def age_ms(self, stamp_us: int) -> int:
        """Return how long ago something was stamped."""
        return max(self.now_us() - stamp_us, 0) // 1_000

    @property
    def compared(self) -> bool:
        """Whether a broker ever told the time."""
        return self._bounds is not None

    @property
    def skew_s(self) -> float:
        """By how much our clock is ahead of the brokers', at the least; 0 as long as it may be right."""
        wall_us = self._wall_us()
        return (wall_us - self._believed(wall_us, self._monotonic_us())) / 1e6


def compare_clocks(clock: BrokerClock, kafka: KafkaOptions, member: str) -> Future[None]:
    """Ask the brokers for the time, before a request may seem to have waited for too long by a wrong clock.

    Beside the loop; where they do not tell, our own clock is believed.
    """
    return DaemonExecutor(1, "llm-clock").submit(_compare, clock, kafka, f"{member}.clock")


def _compare(clock: BrokerClock, kafka: KafkaOptions, transactional_id: str) -> None:
    try:
        ask_stamp(kafka, LLM_RAW.named(kafka.topic_prefix), transactional_id, clock.acknowledged, _ASK_S)
    except KafkaFailure as error:
        log.warning("llm_clock_not_compared", cause=str(error))
    if abs(skew_s := clock.skew_s) > SKEW_S:
        log.warning("llm_clock_is_wrong", skew_s=round(skew_s, 3))
