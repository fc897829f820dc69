"""Who falls behind is dealt with as the stream's kind says, whatever carries the stream.

A client is held to its kind's bound from when it had all that there was: one that still reads its history has
the history's bounds. While it takes nothing it costs its place alone, so most is decided when it takes more:

    drop_old       it misses the oldest beyond its bound, is told of the gap, and goes on with the rest
    drop_new       it is given what its bound allows it to be owed, and then a gap up to the present
    terminate      as soon as the bound is passed it is let go, to come back with its cursor
    slow_producer  it misses nothing; the producer is held back (``edge/slowing.py``), for ``stall_ms_max``,
                   and then those who are behind are dealt with as ``then`` says
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edge.channel import Channel
    from edge.core import EdgeCore
    from edge.delivery import Delivery
    from edge.frame import Frame
    from edge.slowing import Slowing
    from schemas.kinds import Kind
    from schemas.kinds import Pressure as PolicyName

_WATCHED: Final = ("terminate", "slow_producer")
"""Policies that act while a client takes nothing."""


class Pressure:
    """Decides for an edge's deliveries; is asked when one stops, goes on, or may have passed its bound."""

    def __init__(self, core: EdgeCore, slowing: Slowing) -> None:
        self._core = core
        self._slowing = slowing

    def kind_of(self, channel: Channel) -> Kind | None:
        """The kind of a stream; None while it is not known, and then nobody is behind."""
        return self._core.joiner.kind_of(channel.key)

    def policy_of(self, delivery: Delivery) -> PolicyName | None:
        """What holds for a delivery now."""
        kind = self.kind_of(delivery.subscriber.channel)
        if kind is None:
            return None
        return kind.backpressure.then if delivery.subscriber.given_up else kind.backpressure.policy

    def is_over(self, delivery: Delivery, kind: Kind) -> bool:
        """Whether a delivery has passed its kind's bound."""
        if delivery.subscriber.former or delivery.subscriber.finished:
            return False  # what came since is of another stream
        behind = delivery.subscriber.channel.ring.behind(delivery.subscriber.expect)
        policy = kind.backpressure
        return behind.events > policy.behind_events_max or behind.bytes > policy.behind_bytes_max

    # -- what is asked ----------------------------------------------------------------------------------

    def paused(self, delivery: Delivery) -> None:
        """It takes nothing more; note when it is to be looked at if it stays so."""
        subscriber = delivery.subscriber
        if delivery.over or not subscriber.live or subscriber.finished:
            return
        channel = subscriber.channel
        channel.laggards.add(delivery)
        kind = self.kind_of(channel)
        if kind is not None and kind.backpressure.policy in _WATCHED:
            self._look_when_over(delivery, kind)

    def look(self, channel: Channel) -> None:
        """The stream went on as far as somebody's bound."""
        channel.look_no_more()
        kind = self.kind_of(channel)
        if kind is None or kind.backpressure.policy not in _WATCHED:
            return
        pressed = False
        for delivery in tuple(channel.laggards):
            if not self.is_over(delivery, kind):
                self._look_when_over(delivery, kind)
            elif kind.backpressure.policy == "slow_producer":
                pressed = pressed or not delivery.subscriber.given_up
            elif delivery.paused:
                self.let_go(delivery, kind, "terminate")
        if pressed:
            self._slowing.press(channel.key)

    def resumed(self, delivery: Delivery) -> Frame | None:
        """It takes more: give the gap that it is to be told first, if there is one."""
        subscriber = delivery.subscriber
        policy, kind = self.policy_of(delivery), self.kind_of(subscriber.channel)
        subscriber.given_up = False
        if delivery.over or kind is None or not subscriber.live or not self.is_over(delivery, kind):
            return None
        if policy == "terminate":
            self.let_go(delivery, kind, policy)
        elif policy == "drop_old":
            return self._drop_old(delivery, kind)
        elif policy == "drop_new" and subscriber.drop_from < 0:
            bound, ring = kind.backpressure, subscriber.channel.ring
            subscriber.drop_from = min(
                subscriber.expect + bound.behind_events_max,
                ring.seq_after(subscriber.expect, bound.behind_bytes_max),
            )
        return None

    def missed(self, delivery: Delivery) -> Frame | None:
        """It was given all that its bound allowed (``drop_new``): give the gap from there to the present."""
        subscriber, channel = delivery.subscriber, delivery.subscriber.channel
        subscriber.drop_from = -1
        present = channel.end_seq if channel.end_seq >= 0 else channel.ring.next_seq  # an end is told always
        return self._gap(delivery, present, "drop_new")

    # -- what is done -----------------------------------------------------------------------------------

    def give_up(self, channel: Channel) -> None:
        """Its producer was held back for long enough: deal with who is still behind as ``then`` says."""
        kind = self.kind_of(channel)
        if kind is None:
            return
        for delivery in tuple(channel.laggards):
            if not self.is_over(delivery, kind):
                continue
            delivery.subscriber.given_up = True
            if kind.backpressure.then == "terminate":
                self.let_go(delivery, kind, "terminate")

    def let_go(self, delivery: Delivery, kind: Kind, policy: PolicyName) -> None:
        """Give it nothing more; its client is told once it takes anything, and may come back."""
        self._core.metrics.slow_closed.labels(policy, kind.name, delivery.transport_name).inc()
        delivery.let_go()

    def _drop_old(self, delivery: Delivery, kind: Kind) -> Frame | None:
        bound, ring = kind.backpressure, delivery.subscriber.channel.ring
        oldest = max(ring.next_seq - bound.behind_events_max, ring.newest_within(bound.behind_bytes_max))
        return self._gap(delivery, oldest, "drop_old")

    def _gap(self, delivery: Delivery, to: int, policy: PolicyName) -> Frame | None:
        """Move a delivery on to a seq, and say what it misses; None if that is nothing."""
        subscriber, channel = delivery.subscriber, delivery.subscriber.channel
        count = to - subscriber.expect
        if count <= 0:
            return None
        kind = self.kind_of(channel)
        subscriber.drop(policy, count)
        labels = (policy, kind.name if kind is not None else "", delivery.transport_name)
        self._core.metrics.slow_dropped.labels(*labels).inc(count)
        offset = self._core.replay.offset_before(subscriber, to)
        subscriber.next_offset = offset + 1
        return self._core.replay.gap(subscriber, to - 1, "slow", delivery.partition, offset)

    def _look_when_over(self, delivery: Delivery, kind: Kind) -> None:
        subscriber, bound = delivery.subscriber, kind.backpressure
        ring = subscriber.channel.ring
        subscriber.channel.look_when(
            subscriber.expect + bound.behind_events_max,
            ring.came_bytes - ring.behind(subscriber.expect).bytes + bound.behind_bytes_max,
        )
