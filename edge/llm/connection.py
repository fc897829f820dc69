"""The connection of a client that speaks another shape: one answer, from the response's head to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge.connection import Connection
from edge.delivery import Delivery
from edge.llm.told import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from edge.connection import ConnectionLimits, Leaving
    from edge.core import EdgeCore
    from edge.errors import Forbidden
    from edge.join import Joined
    from edge.llm.answer import Answer

_AWAY: Final[Mapping[Leaving, tuple[int, str]]] = {
    "drain": (503, "this edge stops"),
    "overload": (503, "this edge has too much to do"),
    "unready": (503, "this edge is not ready"),
    "life": (503, "the connection has lived for as long as it may"),
    "slow": (503, "the client did not take what came"),
    "expired": (401, "the token has expired"),
    "revoked": (401, "the token was revoked"),
}


class AnswerConnection(Connection):
    """As an SSE connection, but what is said is an ``Answer``'s."""

    transport_name = "answer"
    __slots__ = ("_answer", "_delivery", "_left", "_where")

    def __init__(
        self,
        core: EdgeCore,
        joined: Joined,
        answer: Answer,
        limits: ConnectionLimits,
        *,
        left: Callable[[], None] | None,
    ) -> None:
        """``left`` is called if the client leaves before the answer is over."""
        super().__init__(core, joined.subscriber.name, limits)
        channel = joined.subscriber.channel
        self._answer = answer
        self._left = left
        self._where = f"{channel.tenant}/{channel.stream_id}"
        self._delivery = Delivery(core, joined, answer, self)
        self.tenant = channel.tenant
        self.authorise(joined.identity)

    @property
    def deliveries(self) -> Collection[Delivery]:
        """See Connection."""
        return (self._delivery,)

    def begin(self) -> None:
        """See Connection."""
        self.write = self._write
        self._delivery.start()

    def beat(self) -> None:
        """See Connection."""
        self._write(self._answer.beat())

    def say_goodbye(self, reason: Leaving) -> None:
        """See Connection: such a client cannot come back, but the answer can be read as a stream of ours."""
        status, why = _AWAY[reason]
        message = f"{why}; the answer goes on, and can be read as stream {self._where}"
        self.transport.write(self._answer.failed(Failure(status, reason, message)))

    def say_expiring(self, expires_in_ms: int) -> None:
        """See Connection: there is no word for it."""

    def refuse(self, delivery: Delivery, denied: Forbidden) -> None:
        """See Outlet."""
        delivery.stop("refused")
        self.transport.write(self._answer.failed(Failure(403, denied.code, str(denied))))
        self.finish("refused")

    def delivered_end(self, delivery: Delivery) -> None:
        """See Outlet."""
        delivery.stop()
        self.finish("end")

    def never_was(self) -> None:
        """Let go of what was held for a client that left before it was connected."""
        self._core.hub.detach(self._delivery.subscriber)
        self._ungroup()
        if self._left is not None:
            self._left()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        super().connection_lost(exc)
        self._ungroup()
        if self._left is not None and not self._answer.over and self._reason in ("gone", "stalled"):
            self._left()

    def _ungroup(self) -> None:
        """Take the group away that nobody else is ever in: the stream may be asked for again and again."""
        self._delivery.subscriber.channel.groups.pop(self._answer.name, None)

    def _write(self, data: bytes) -> None:
        if not data or self.transport.is_closing():
            return  # an empty chunk would be the last
        self.transport.write(data)
        if self._answer.over:
            self.delivered_end(self._delivery)
