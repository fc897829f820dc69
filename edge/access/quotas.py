"""How much one tenant may have of this process, so that the others have the rest."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from edge.metrics import EdgeMetrics

_BUCKETS_MAX: Final = 10_000
"""Tenants whose rate is remembered, about 200 bytes each; who was silent longest begins with a full one."""
_NAMED_MAX: Final = 100
"""Tenants that a metric names; all others share one label."""
OTHERS: Final = "(others)"
Limit = Literal["connections", "subscriptions", "tenant_connections", "tenant_events"]


class Quotas:
    """Counts connections and events of each tenant; 0 = no bound of their own."""

    def __init__(
        self, metrics: EdgeMetrics, *, connections_max: int, events_per_s_max: int, burst_events: int
    ) -> None:
        self._metrics = metrics
        self._connections_max = connections_max
        self._events_per_s_max = events_per_s_max
        self._burst_events = max(burst_events, events_per_s_max)
        self._connections: Counter[str] = Counter()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._named: set[str] = set()

    def opened(self, tenant: str) -> None:
        """Take note of a connection."""
        self._connections[tenant] += 1

    def closed(self, tenant: str) -> None:
        """Take note of its end."""
        self._connections[tenant] -= 1
        if self._connections[tenant] <= 0:
            del self._connections[tenant]

    def is_full(self, tenant: str) -> bool:
        """Whether a tenant has all the connections that it may have; counted if so."""
        full = bool(tenant) and 0 < self._connections_max <= self._connections[tenant]
        if full:
            self.hit("tenant_connections", tenant)
        return full

    def take(self, tenant: str, events: int, now_s: float) -> float:
        """Take so many events out of a tenant's bucket; else give for how many seconds to wait for them.

        A token bucket: it fills by the rate, and holds a second of it, or one full request if that is more.
        """
        rate = self._events_per_s_max
        if rate <= 0:
            return 0.0
        level, at_s = self._buckets.pop(tenant, (float(self._burst_events), now_s))
        level = min(level + (now_s - at_s) * rate, self._burst_events)
        missing = events - level
        self._buckets[tenant] = (level if missing > 0 else -missing, now_s)
        if len(self._buckets) > _BUCKETS_MAX:
            self._buckets.popitem(last=False)
        if missing <= 0:
            return 0.0
        self.hit("tenant_events", tenant)
        return missing / rate

    def hit(self, limit: Limit, tenant: str) -> None:
        """Count that a limit was met."""
        if tenant not in self._named and len(self._named) >= _NAMED_MAX:
            tenant = OTHERS
        else:
            self._named.add(tenant)
        self._metrics.limited.labels(limit, tenant).inc()
