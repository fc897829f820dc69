"""One client's connection on the data plane: no task and no queue, a place on the wheel and its deliveries.

What is never taken pins at most one write. A connection that takes nothing for ``write_stall_ms_max`` is
aborted: closing it would wait for its buffer to empty.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final, Literal, cast

import structlog

from edge.access.identity import ANYBODY

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from edge.access.identity import Identity
    from edge.core import EdgeCore
    from edge.delivery import Delivery
    from edge.errors import Forbidden
    from schemas.kinds import Kind

log = structlog.get_logger(__name__)
GIVE_BACK_S: Final = 1.0
"""A client that takes nothing for so long is no slow network: what was read ahead for it is let go of."""
Leaving = Literal["drain", "overload", "life", "unready", "expired", "revoked", "slow"]
"""Why the edge closes a connection whose client is to come back."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How long a connection may be silent and live, and how its client comes back; of its streams' kind."""

    heartbeat_ms: int
    """A sign of life goes out on a connection that was idle this long."""
    retry_ms: int
    """When a client that is sent away comes back; jittered."""
    life_ms_max: int
    """How old a connection grows before its client is sent away."""
    drain_ms: int
    """Over how long the clients of a stopping edge are sent away."""

    @classmethod
    def of(cls, kind: Kind) -> ConnectionLimits:
        """What a kind declares."""
        policy = kind.connection
        return cls(
            heartbeat_ms=policy.heartbeat_ms,
            retry_ms=policy.retry_ms,
            life_ms_max=policy.connection_life_ms_max,
            drain_ms=policy.drain_ms,
        )

    def ends_s(self, since_s: float) -> float:
        """When the life ends of what began then.

        Spread over a fifth, so that what was opened together does not end together.
        """
        return since_s + self.life_ms_max / 1_000 * (0.8 + 0.2 * random.random())  # noqa: S311


class Connection(asyncio.Protocol):
    """What all transports of the data plane have; each says its own heartbeat, goodbye and end."""

    transport_name = ""
    __slots__ = (
        "_core",
        "_ends_s",
        "_expires_s",
        "_heartbeat_s",
        "_leaving",
        "_reason",
        "_stall_due_s",
        "_unsent_bytes",
        "_warn_s",
        "_written_s",
        "drain_ms",
        "due_slot",
        "identity",
        "name",
        "opened_s",
        "paused",
        "paused_s",
        "retry_ms",
        "tenant",
        "transport",
        "write",
    )

    def __init__(self, core: EdgeCore, name: str, limits: ConnectionLimits) -> None:
        self._core = core
        self.name = name
        """The client's address, for whoever looks for slow ones."""
        self.retry_ms, self.drain_ms = limits.retry_ms, limits.drain_ms
        self.due_slot = -1
        self.paused = False
        self.paused_s = 0.0
        """When it stopped to take what it is given, by the loop's clock."""
        self.opened_s = core.now_s()
        self._heartbeat_s = limits.heartbeat_ms / 1_000
        self._ends_s = limits.ends_s(self.opened_s)
        self._written_s = self.opened_s
        self.identity = ANYBODY
        self.tenant = ""
        """To whom it is counted."""
        self._expires_s = self._warn_s = inf
        self._leaving: Leaving | None = None
        self._reason = "gone"
        self._unsent_bytes = 0
        self._stall_due_s = 0.0
        self.transport: asyncio.Transport
        self.write: Callable[[bytes], None]

    # -- what a transport says in its own way -----------------------------------------------------------

    @property
    def deliveries(self) -> Collection[Delivery]:
        """The streams that it is given."""
        raise NotImplementedError

    def begin(self) -> None:
        """Write what a connection starts with, and begin to deliver."""
        raise NotImplementedError

    def beat(self) -> None:
        """Write a sign of life."""
        raise NotImplementedError

    def say_goodbye(self, reason: Leaving) -> None:
        """Write that the client is to come back, and the end of the answer."""
        raise NotImplementedError

    def delivered_end(self, delivery: Delivery) -> None:
        """See Outlet."""
        raise NotImplementedError

    @property
    def stalled(self) -> bool:
        """See Outlet."""
        return self.paused and self._core.now_s() - self.paused_s >= GIVE_BACK_S

    @property
    def turn(self) -> asyncio.Lock | None:
        """See Outlet; one delivery alone needs no turns."""
        return None

    def had_turn(self, delivery: Delivery) -> None:
        """See Outlet; one delivery alone needs no turns."""

    def let_go(self, delivery: Delivery) -> None:  # noqa: ARG002  # it is the only one
        """See Outlet; who has one stream is sent away for it."""
        self.send_away("slow")

    def say_expiring(self, expires_in_ms: int) -> None:
        """Write that the token ends soon: who can, brings a new one; the others come back with one."""
        raise NotImplementedError

    def refuse(self, delivery: Delivery, denied: Forbidden) -> None:
        """See Outlet."""
        raise NotImplementedError

    # -- who it is for ----------------------------------------------------------------------------------

    def authorise(self, identity: Identity) -> None:
        """Act for somebody from now on, until their token ends; again, when they bring a new one in time.

        Streams that the new one does not allow are refused.
        """
        self.identity = identity
        if self not in self._core.clients:  # who is counted already stays counted to the same tenant
            self.tenant = self.tenant or identity.tenants.only
        if identity.expires_s == inf:
            self._expires_s = self._warn_s = inf
        else:
            self._keep_time(identity)
        for delivery in tuple(self.deliveries):
            if (denied := delivery.denied(identity)) is not None:
                self.refuse(delivery, denied)

    def _keep_time(self, identity: Identity) -> None:
        # The token's clock is the world's, the wheel's is the loop's.
        left_s, now_s = identity.expires_s - time.time(), self._core.now_s()
        # Spread over half as much again: tokens that were issued together are not renewed together.
        warning_s = self._core.options.access.expiry_warning_ms / 1_000 * (1 + random.random() / 2)  # noqa: S311
        self._expires_s = now_s + left_s + identity.leeway_s
        self._warn_s = now_s + max(left_s - warning_s, 0)
        if self.due_slot >= 0 and not self.paused:  # else it would be taken for one that stalled
            self._core.wheel.put(self, now_s)

    # -- asyncio.Protocol -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=0)  # any byte that is not taken counts as a pause
        self.write = self.transport.write
        self._core.opened(self)
        self._core.wheel.put(self, self._next_look(self.opened_s))
        if self.transport.get_write_buffer_size():  # of the answer before: asyncio has said so, to another
            self.pause_writing()
        self.begin()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's name
        """See asyncio."""
        self._core.wheel.take_out(self)
        for delivery in tuple(self.deliveries):
            delivery.stop(self._reason)
        self._core.closed(self, self._reason)

    def data_received(self, data: bytes) -> None:
        """Whatever a client says on a connection that only tells is not listened to."""

    def pause_writing(self) -> None:
        """See asyncio."""
        if self.paused:
            return
        self.paused, self.paused_s = True, self._core.now_s()
        self._unsent_bytes = self.transport.get_write_buffer_size()
        for delivery in tuple(self.deliveries):
            delivery.pause()
        self._stall_due_s = self.paused_s + self._core.options.write_stall_ms_max / 1_000
        self._core.wheel.put(self, min(self.paused_s + GIVE_BACK_S, self._stall_due_s))

    def resume_writing(self) -> None:
        """See asyncio."""
        self.paused, self.paused_s = False, 0.0
        self._written_s = self._core.now_s()
        if self._leaving is not None:
            self.send_away(self._leaving)
            return
        self._core.wheel.put(self, self._next_look(self._written_s))
        if self._tell_time(self._written_s):
            return
        for delivery in tuple(self.deliveries):
            if self.paused:
                return
            delivery.resume()

    # -- its end ----------------------------------------------------------------------------------------

    def send_away(self, reason: Leaving) -> None:
        """Have the client come back with its cursor; as soon as it takes what it was given before."""
        if self.transport.is_closing():
            return
        if self.paused and reason == "revoked":
            self.abort(reason)  # not when it likes to
            return
        self._leaving = self._leaving or reason
        if not self.paused:
            for delivery in tuple(self.deliveries):
                delivery.stop(reason)
            self.say_goodbye(reason)
            self.finish(reason)

    def finish(self, reason: str) -> None:
        """Close once all is taken that was written."""
        self._reason = reason
        self.transport.close()

    def abort(self, reason: str) -> None:
        """Close now; what was not taken is lost, and the client resumes from its cursor."""
        self._reason = reason
        self.transport.abort()

    # -- its time ---------------------------------------------------------------------------------------

    def keep_to(self, limits: ConnectionLimits, since_s: float) -> None:
        """See Outlet."""
        now_s = self._core.now_s()
        self._heartbeat_s = limits.heartbeat_ms / 1_000
        self.retry_ms, self.drain_ms = limits.retry_ms, limits.drain_ms
        # Who waited longer than that leaves within a fifth of it: all at once would come back at once.
        overdue_s = now_s + 0.2 * random.random() * limits.life_ms_max / 1_000  # noqa: S311
        self._ends_s = max(limits.ends_s(since_s), overdue_s)
        self._look_again(now_s)

    def _look_again(self, now_s: float) -> None:
        """Have it looked at when it is due by now; one that is paused is looked at for its stall."""
        if not self.paused and self.due_slot >= 0:
            self._core.wheel.put(self, self._next_look(now_s))

    def on_time(self, now_s: float) -> float:
        """See Timed."""
        if self.paused and now_s < self._stall_due_s:
            for delivery in tuple(self.deliveries):
                delivery.give_back()
            return self._stall_due_s
        if self.paused:
            return self._look_at_stall(now_s)
        if self._tell_time(now_s):
            return now_s + self._core.options.write_stall_ms_max / 1_000
        if now_s - self._idle_since() >= 0.95 * self._heartbeat_s:
            self._written_s = now_s
            self._core.metrics.heartbeats.inc()
            self.beat()
        return self._next_look(now_s)

    def _tell_time(self, now_s: float) -> bool:
        """Send it away if its life or its token is over, and give whether; say if its token ends soon."""
        if now_s >= min(self._ends_s, self._expires_s):
            self.send_away("life" if now_s >= self._ends_s else "expired")
            return True
        if now_s >= self._warn_s:
            self._warn_s = inf
            self._written_s = now_s
            self.say_expiring(self.identity.expires_in_ms)
        return False

    def _idle_since(self) -> float:
        return max(self._written_s, *(delivery.flushed_s for delivery in self.deliveries), 0.0)

    def _next_look(self, now_s: float) -> float:
        beat_s = max(self._idle_since() + self._heartbeat_s, now_s)
        return min(beat_s, self._ends_s, self._expires_s, self._warn_s)

    def _look_at_stall(self, now_s: float) -> float:
        unsent_bytes = self.transport.get_write_buffer_size()
        if unsent_bytes >= self._unsent_bytes:
            log.warning(
                "client_stalled", peer=self.name, subject=self.identity.shown, unsent_bytes=unsent_bytes
            )
            let_go = any(delivery.too_slow for delivery in self.deliveries)
            self.abort("slow" if let_go else "stalled")
        self._unsent_bytes = unsent_bytes  # slow, but it reads
        self._stall_due_s = now_s + self._core.options.write_stall_ms_max / 1_000
        return self._stall_due_s
