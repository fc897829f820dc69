"""What an edge counts, in a Prometheus registry of its own; values held elsewhere are read at each scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from edge.freshness import Freshness
from edge.tally import Tally
from schemas.kinds import BUILTIN_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from edge.frame import Frame
    from schemas.kinds import KindTable

_P = "sluicegate_edge_"


class EdgeMetrics:
    """Counters of one edge process."""

    def __init__(self, kinds: KindTable = BUILTIN_KINDS) -> None:
        self.registry = CollectorRegistry()
        self._freshness = Freshness(kinds, self.registry)
        self.connections = Gauge(
            f"{_P}connections", "Open connections.", ["transport"], registry=self.registry
        )
        self.closed = Counter(
            f"{_P}connections_closed_total",
            "Connections that ended, by reason: end, left, gone, stalled, slow, dead, drain, overload, life, "
            "expired, revoked, refused, protocol, unsupported, slow_message.",
            ["transport", "reason"],
            registry=self.registry,
        )
        self.joins = Counter(
            f"{_P}joins_total",
            "Streams that clients came for, by where they start: open (no cursor), resume, over, refused; or "
            "why no client was taken: unready, overload, drain.",
            ["transport", "start"],
            registry=self.registry,
        )
        self.refused = Counter(
            f"{_P}cursors_refused_total", "Cursors that were refused.", ["code"], registry=self.registry
        )
        self.denied = Counter(
            f"{_P}denied_total",
            "Requests that were turned away, by why: no_token, token_refused, token_expired, token_revoked, "
            "forbidden.",
            ["code"],
            registry=self.registry,
        )
        self.limited = Counter(
            f"{_P}limited_total",
            "Requests and clients that met a limit, by it and by tenant.",
            ["limit", "tenant"],
            registry=self.registry,
        )
        self._events = Tally(
            f"{_P}delivered_events_total",
            "Events given to clients, out of ring or history.",
            self.registry,
            "from",
            ("ring", "history"),
        ).by
        self._bytes = Tally(
            f"{_P}delivered_bytes_total", "Bytes of events given to clients.", self.registry
        ).by
        self._writes = Tally(f"{_P}writes_total", "Writes of events to clients.", self.registry).by
        self.gaps = Counter(
            f"{_P}gaps_total", "Gaps that this edge declared to clients.", registry=self.registry
        )
        slow = ["policy", "kind", "transport"]
        self.slow_dropped = Counter(
            f"{_P}slow_dropped_events_total",
            "Events that clients behind their bound were told to miss, by policy: drop_old, drop_new.",
            slow,
            registry=self.registry,
        )
        self.slow_closed = Counter(
            f"{_P}slow_closed_total",
            "Deliveries that were ended for being behind their bound, by policy: terminate.",
            slow,
            registry=self.registry,
        )
        self.slowed_streams = Counter(
            f"{_P}slowed_streams_total",
            "Times that this edge began to hold back a stream's producer (slow_producer).",
            ["kind"],
            registry=self.registry,
        )
        self.slowed_publishes = Counter(
            f"{_P}slowed_publishes_total",
            "Publish requests refused, or held back, because the stream's clients could not follow, by how "
            "they came: http, websocket, grpc.",
            ["kind", "transport"],
            registry=self.registry,
        )
        self.heartbeats = Counter(
            f"{_P}heartbeats_total", "Comments on idle connections.", registry=self.registry
        )
        self.messages = Counter(
            f"{_P}websocket_messages_total",
            "Messages of WebSocket clients, by type; malformed: of none.",
            ["type"],
            registry=self.registry,
        )
        self.publishes = Counter(
            f"{_P}publish_requests_total",
            "Publish requests, by status of the answer.",
            ["status"],
            registry=self.registry,
        )
        self.published = Counter(
            f"{_P}published_events_total", "Events appended to the input topic.", registry=self.registry
        )
        self.append_seconds = Histogram(
            f"{_P}append_seconds",
            "From a checked request to its committed transaction.",
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
            registry=self.registry,
        )
        self.verdict_seconds = Histogram(
            f"{_P}verdict_seconds",
            "From a committed append to the last verdict of a request that waits for it.",
            buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
            registry=self.registry,
        )
        for transport in ("sse", "websocket", "grpc", "answer"):
            self.connections.labels(transport).set(0)  # there before the first client, for who watches it

    def flushed(
        self, kind: str, frames: Sequence[Frame], size_bytes: int, members: int, *, gaps: int = 0
    ) -> None:
        """Count one write of frames out of the ring to each of so many clients that had all before."""
        self._freshness.count(kind, frames, members)
        self._events["ring"] += len(frames) * members
        self._bytes[""] += size_bytes * members
        self._writes[""] += members
        if gaps:
            self.gaps.inc(gaps * members)

    def delivered(self, events: int, size_bytes: int, *, gaps: int = 0, from_ring: bool = True) -> None:
        """Count one write to one client, of so many frames; ``gaps`` of them declare what it misses."""
        self._events["ring" if from_ring else "history"] += events
        self._bytes[""] += size_bytes
        self._writes[""] += 1
        if gaps:
            self.gaps.inc(gaps)


class Levels(Protocol):
    """Where the values stand that are read at a scrape."""

    def levels(self) -> dict[str, tuple[str, float]]:
        """Name without prefix → (help, value); a name ending in ``_total`` is a counter."""
        ...

    def tail_lag(self) -> dict[tuple[str, int], int]:
        """Records behind the last stable offset by (topic, partition)."""
        ...


class LevelCollector(Collector):
    """Reads levels at each scrape."""

    def __init__(self, levels: Levels) -> None:
        self._levels = levels

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        for name, (text, value) in self._levels.levels().items():
            if name.endswith("_total"):
                yield CounterMetricFamily(_P + name.removesuffix("_total"), text, value=value)
            else:
                yield GaugeMetricFamily(_P + name, text, value=value)
        lag = GaugeMetricFamily(
            f"{_P}tail_lag_records",
            "Records between this edge's tail and the last stable offset.",
            labels=["topic", "partition"],
        )
        for (topic, partition), records in self._levels.tail_lag().items():
            lag.add_metric([topic, str(partition)], records)
        yield lag
