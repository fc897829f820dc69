"""How fresh live events are when they are written: event time to socket, against the target of their kind."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from edge.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prometheus_client import CollectorRegistry

    from edge.frame import Frame
    from schemas.kinds import KindTable


class Freshness:
    """Counts what is given to clients that have all before it; whoever catches up reads old events rightly.

    Event time is the producer's: one whose clock is slow makes its events stale.
    """

    def __init__(self, kinds: KindTable, registry: CollectorRegistry) -> None:
        names = [kind.name for kind in kinds]
        self._live = Tally(
            "sluicegate_edge_live_events_total",
            "Events given to clients that had all before them, by kind.",
            registry,
            "kind",
            names,
        ).by
        self._stale = Tally(
            "sluicegate_edge_stale_events_total",
            "Those of them that were written later after their event time than the kind's freshness target.",
            registry,
            "kind",
            names,
        ).by
        self._targets_us = {kind.name: kind.observability.freshness_target_ms * 1_000 for kind in kinds}

    def count(self, kind: str, frames: Sequence[Frame], members: int) -> None:
        """Count frames that are written now to each of so many clients; an unknown kind has no target."""
        target_us = self._targets_us.get(kind)
        if target_us is None:
            return
        oldest_us = time.time_ns() // 1_000 - target_us
        late = sum([frame.event is not None and frame.event.time < oldest_us for frame in frames])
        self._live[kind] += len(frames) * members
        self._stale[kind] += late * members
