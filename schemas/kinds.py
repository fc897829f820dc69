"""Kinds of streams and the policies that each declares; a kind without all of them is not served."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from schemas.errors import UnknownKind
from schemas.topics import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

Pressure = Literal["slow_producer", "drop_old", "drop_new", "terminate"]


@dataclass(frozen=True, slots=True)
class ConnectionPolicy:
    """How long a stream and a connection to it may stay silent, and live."""

    heartbeat_ms: int
    """A comment goes out on a connection that was idle this long."""
    idle_timeout_ms: int
    """Event time without an event after which ingest ends the stream as ``timed_out``."""
    total_timeout_ms: int
    """Event time after ``open`` after which ingest ends the stream as ``timed_out``."""
    retry_ms: int
    """Reconnect hint for clients; the edge adds jitter."""
    connection_life_ms_max: int
    """A connection older than this is asked to reconnect, so that edges can be rolled."""
    drain_ms: int
    """Connections of a stopping edge are closed spread over this window."""


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """What a business operation may rely on."""

    guarantee: Literal["at_most_once", "at_least_once", "exactly_once"]
    """``exactly_once``: an event has one effect, known by its id; ``preflight`` refuses the others, for
    nothing weaker is built."""


@dataclass(frozen=True, slots=True)
class ReplayPolicy:
    """Whether a client may resume, and from how far back; all three bounds hold, the tightest wins."""

    resumable: bool
    history_ms: int
    history_events: int
    history_bytes: int


@dataclass(frozen=True, slots=True)
class BackpressurePolicy:
    """What happens when subscribers cannot keep up."""

    policy: Pressure
    behind_events_max: int
    behind_bytes_max: int
    behind_share: float
    """Share of a stream's subscribers that must be behind before the producer is slowed; else 1."""
    stall_ms_max: int
    """Longest that a producer is slowed; after it ``then`` applies. 0 for another policy."""
    then: Literal["drop_old", "drop_new", "terminate"]
    """For another policy than ``slow_producer`` it is that policy."""


@dataclass(frozen=True, slots=True)
class ObservabilityPolicy:
    """What must be known of every stream of the kind."""

    record: tuple[str, ...]
    """Facts that must be known: all of ``RECORD_FACTS``; ``preflight`` refuses others, for none is kept."""
    freshness_target_ms: int
    """Event time to the socket of a live client: what is slower an edge counts as stale, and an alert is on
    that."""


@dataclass(frozen=True, slots=True)
class RunbookPolicy:
    """Which page covers which trouble.

    It is one of ours in ``runbooks/``, one in that folder beside the agents that declare the kind, or an
    address (``https://``).
    """

    lag_growth: str
    checkpoint_failure: str
    reconnect_storm: str


@dataclass(frozen=True, slots=True)
class OrderPolicy:
    """How ingest treats events that come out of order, twice, or too late."""

    reorder_events_max: int
    """Events held back for a missing seq; one more and ingest declares a gap."""
    reorder_ms_max: int
    """Broker append time that a missing seq is waited for (docs/adr/0003-reorder-wait.md)."""
    dedupe_ttl_ms: int
    """How long after ``end`` a repeated event is still known as a duplicate."""
    rejects: Literal["dead_letter", "count"]
    """Where an event with a bad verdict goes, besides the rejects topic."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of streams with the same policies."""

    name: str
    doc: str
    connection: ConnectionPolicy
    delivery: DeliveryPolicy
    replay: ReplayPolicy
    backpressure: BackpressurePolicy
    observability: ObservabilityPolicy
    runbooks: RunbookPolicy
    order: OrderPolicy


class KindTable:
    """The kinds that a process knows."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._kinds = {kind.name: kind for kind in kinds}

    def named(self, name: str) -> Kind:
        """Return the kind of that name, or raise UnknownKind with the names there are."""
        kind = self._kinds.get(name)
        if kind is None:
            raise UnknownKind(name, self._kinds)
        return kind

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._kinds.values())

    def __contains__(self, name: object) -> bool:
        return name in self._kinds

    def mapping(self) -> Mapping[str, Kind]:
        """Return the kinds by name, read only."""
        return MappingProxyType(self._kinds)


RECORD_FACTS: Final = (
    "request_id", "stream_id", "seq", "type", "timing", "lag", "termination", "upstream_id",
)  # fmt: skip
"""What must be known of every stream, or an on-call person cannot tie a complaint to a cause."""
_RUNBOOKS: Final = RunbookPolicy("lag-growth", "checkpoint-failure", "reconnect-storm")

JOB: Final = Kind(
    name="job",
    doc="A long operation that reports progress and state: minutes to hours, few events, each one matters.",
    connection=ConnectionPolicy(
        heartbeat_ms=15_000,  # under the 30 s after which common proxies cut an idle connection
        idle_timeout_ms=15 * MINUTE_MS,
        total_timeout_ms=DAY_MS,
        retry_ms=1_000,
        connection_life_ms_max=HOUR_MS,
        drain_ms=10_000,
    ),
    delivery=DeliveryPolicy("exactly_once"),
    replay=ReplayPolicy(
        resumable=True, history_ms=3 * DAY_MS, history_events=100_000, history_bytes=64 * MIB
    ),
    backpressure=BackpressurePolicy("slow_producer", 10_000, 8 * MIB, 1.0, 30_000, "drop_old"),
    observability=ObservabilityPolicy(RECORD_FACTS, freshness_target_ms=1_000),
    runbooks=_RUNBOOKS,
    order=OrderPolicy(
        reorder_events_max=256, reorder_ms_max=30_000, dedupe_ttl_ms=HOUR_MS, rejects="dead_letter"
    ),
)
LOG: Final = Kind(
    name="log",
    doc="Lines of a build or a command: bursts of thousands a second, read live and again after a failure.",
    connection=ConnectionPolicy(
        heartbeat_ms=15_000,
        idle_timeout_ms=30 * MINUTE_MS,  # a linker or a test may say nothing for long
        total_timeout_ms=DAY_MS,
        retry_ms=1_000,
        connection_life_ms_max=HOUR_MS,
        drain_ms=10_000,
    ),
    delivery=DeliveryPolicy("exactly_once"),
    replay=ReplayPolicy(
        resumable=True, history_ms=3 * DAY_MS, history_events=1_000_000, history_bytes=256 * MIB
    ),
    backpressure=BackpressurePolicy("drop_old", 50_000, 16 * MIB, 1.0, 0, "drop_old"),
    observability=ObservabilityPolicy(RECORD_FACTS, freshness_target_ms=1_000),
    runbooks=_RUNBOOKS,
    order=OrderPolicy(
        reorder_events_max=1_024, reorder_ms_max=10_000, dedupe_ttl_ms=HOUR_MS, rejects="dead_letter"
    ),
)
LLM: Final = Kind(
    name="llm",
    doc="Tokens and usage of a language-model call: seconds to minutes, a person watches each word.",
    connection=ConnectionPolicy(
        heartbeat_ms=10_000,
        idle_timeout_ms=2 * MINUTE_MS,  # longer than a slow provider's first token
        total_timeout_ms=30 * MINUTE_MS,
        retry_ms=500,
        connection_life_ms_max=30 * MINUTE_MS,
        drain_ms=10_000,
    ),
    delivery=DeliveryPolicy("exactly_once"),
    replay=ReplayPolicy(resumable=True, history_ms=DAY_MS, history_events=200_000, history_bytes=32 * MIB),
    backpressure=BackpressurePolicy("slow_producer", 5_000, 2 * MIB, 1.0, 5_000, "terminate"),
    observability=ObservabilityPolicy(RECORD_FACTS, freshness_target_ms=250),
    runbooks=_RUNBOOKS,
    order=OrderPolicy(
        reorder_events_max=256, reorder_ms_max=5_000, dedupe_ttl_ms=HOUR_MS, rejects="dead_letter"
    ),
)
CHAT: Final = Kind(
    name="chat",
    doc="Messages between people and services: a session stays open for hours with long silences.",
    connection=ConnectionPolicy(
        heartbeat_ms=15_000,
        idle_timeout_ms=4 * HOUR_MS,
        total_timeout_ms=DAY_MS,
        retry_ms=1_000,
        connection_life_ms_max=4 * HOUR_MS,
        drain_ms=30_000,
    ),
    delivery=DeliveryPolicy("exactly_once"),
    replay=ReplayPolicy(resumable=True, history_ms=DAY_MS, history_events=20_000, history_bytes=16 * MIB),
    backpressure=BackpressurePolicy("drop_new", 1_000, MIB, 1.0, 0, "drop_new"),
    observability=ObservabilityPolicy(RECORD_FACTS, freshness_target_ms=500),
    runbooks=_RUNBOOKS,
    order=OrderPolicy(
        reorder_events_max=64, reorder_ms_max=10_000, dedupe_ttl_ms=6 * HOUR_MS, rejects="count"
    ),
)

BUILTIN_KINDS: Final = KindTable((JOB, LOG, LLM, CHAT))
KINDS: Final[Mapping[str, Kind]] = BUILTIN_KINDS.mapping()
