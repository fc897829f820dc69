"""What became of deliveries, told to a topic of its own: opened, resumed, gap, closed.

Each time all is told that is known of the delivery, with a number that grows: whoever keeps the latest of
each (the archive does) has lost nothing by what was never told before.

It is told as it happens and never waited for: an edge that is killed, or that cannot reach Kafka for long,
leaves some of it untold. So it is for people and timelines; nothing that must be right is counted by it.
"""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from schemas.topics import CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.core import EdgeCore
    from edge.delivery import Delivery
    from edge.frame import Frame
    from schemas.topics import TopicSpec


class Notices(Protocol):
    """Where an edge tells what it sees; never waits and never fails."""

    @property
    def told(self) -> int:
        """Records that Kafka has."""
        ...

    @property
    def dropped(self) -> int:
        """Records that were never told: there were too many at once, or Kafka was away."""
        ...

    def tell(self, spec: TopicSpec, key: bytes, fields: Mapping[str, object] | None) -> None:
        """Put a record into a topic, sooner or later; None is a tombstone."""
        ...


class NoNotices:
    """For an edge without Kafka: it has nobody to tell."""

    told = dropped = 0

    def tell(self, spec: TopicSpec, key: bytes, fields: Mapping[str, object] | None) -> None:
        """See Notices."""


class Journal:
    """Tells of one edge's deliveries."""

    def __init__(self, core: EdgeCore) -> None:
        self._core = core
        self._numbers = count(1)

    def opened(self, delivery: Delivery) -> None:
        """A client came."""
        delivery.number, delivery.opened_us = next(self._numbers), time.time_ns() // 1_000
        self._tell(delivery, "resumed" if delivery.subscriber.resumed else "opened")

    def gap(self, delivery: Delivery, frame: Frame) -> None:
        """A client was told of a gap."""
        said = orjson.loads(frame.json or b"{}")
        fields = {name: said[name] for name in ("from_seq", "to_seq", "count", "reason")}
        self._tell(delivery, "gap", **fields)

    def closed(self, delivery: Delivery, reason: str) -> None:
        """A client has left, or its stream has."""
        if delivery.number == 0:
            return  # it never began
        self._tell(delivery, "closed", reason=reason)

    def _tell(self, delivery: Delivery, action: str, **fields: Any) -> None:
        subscriber, channel = delivery.subscriber, delivery.subscriber.channel
        duration_ms = int((self._core.now_s() - delivery.started_s) * 1_000)
        delivery.told += 1
        told = {
            "tenant": channel.tenant,
            "stream_id": channel.stream_id,
            "kind": channel.kind,
            "action": action,
            "edge": self._core.edge_id,
            "connection": delivery.number,
            "transport": delivery.transport_name,
            "peer": subscriber.name,
            "subject": delivery.subject,
            # By the clock that measures it: one that is set back does not close what was never opened.
            "time_us": delivery.opened_us + duration_ms * 1_000,
            "seq": delivery.expect - 1,
            "events": delivery.events,
            "bytes": delivery.bytes,
            "duration_ms": duration_ms,
            "revision": delivery.told,
            "resumed": subscriber.resumed,
            "opened_us": delivery.opened_us,
            "gaps": delivery.gaps,
            "dropped": sum(subscriber.dropped.values()),
            **fields,
        }
        self._core.notices.tell(CONNECTIONS, channel.key, told)
