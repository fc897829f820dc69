"""One watch over gRPC: a connection of the data plane, carried by its call's coroutine.

``Connection`` knows sockets by asyncio's face of them; ``CallTransport`` gives a call that face. A write
counts as a pause until gRPC has it within the client's HTTP/2 window, so a client that does not read pins one
write, as on a socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

from edge.connection import Connection, ConnectionLimits, Leaving
from edge.delivery import Delivery
from edge.group import Encoder
from edge.grpc_errors import Status, sent_away, status_of, token_over
from edge.sse import jittered
from schemas.proto.sluicegate.v1.stream_pb2 import Expiring, Reconnect, Refused, WatchResponse

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from grpc import StatusCode

    from edge.core import EdgeCore
    from edge.errors import Forbidden
    from edge.join import Joined
    from schemas.errors import SluicegateError


class Call(Protocol):
    """What is used of ``grpc.aio.ServicerContext``, which carries no types."""

    async def read(self) -> Any:
        """Give the next message, as bytes; ``grpc.aio.EOF`` if there is none any more."""
        ...

    async def send_initial_metadata(self, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        """Begin to answer; comes back when the connection has taken it, whatever the client's window is."""
        ...

    async def write(self, message: bytes) -> None:
        """Send a message; comes back when gRPC has it, within the client's window."""
        ...

    async def abort(
        self, code: StatusCode, details: str, trailing_metadata: tuple[tuple[str, str | bytes], ...]
    ) -> NoReturn:
        """End the call with an error; raises ``AbortError``."""
        ...

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """What the client said beside its messages; names in small letters."""
        ...

    def peer(self) -> str:
        """The client's address."""
        ...


class CallEncoder(Encoder, Protocol):
    """How events are written over one method."""

    def messages(self, data: bytes) -> Iterable[bytes]:
        """Give the messages that one write is made of.

        Each when the one before was sent: the write is shared by all who stand at the same place, and what is
        cut out of it is not.
        """
        ...


class CallConnection(Connection):
    """One stream to one client, over a call that only the server writes to."""

    transport_name = "grpc"
    __slots__ = ("_aborted", "_delivery", "encoder", "status")

    def __init__(
        self,
        core: EdgeCore,
        joined: Joined,
        encoder: CallEncoder,
        limits: ConnectionLimits,
    ) -> None:
        super().__init__(core, joined.subscriber.name, limits)
        self.encoder = encoder
        self._delivery = Delivery(core, joined, encoder, self)
        self._aborted = False
        self.status: Status | None = None
        """How the call is to end; None = well."""
        self.tenant = joined.subscriber.channel.tenant
        self.authorise(joined.identity)

    @property
    def deliveries(self) -> Collection[Delivery]:
        """See Connection."""
        return (self._delivery,)

    def begin(self) -> None:
        """See Connection."""
        self._delivery.start()

    def say_goodbye(self, reason: Leaving) -> None:
        """See Connection; the call's status says it, once all is sent."""
        self.status = self._status(reason)

    def refuse(self, delivery: Delivery, denied: Forbidden) -> None:
        """See Outlet."""
        delivery.stop("refused")
        self.status = status_of(denied)
        self.finish("refused")

    def abort(self, reason: str) -> None:
        """See Connection."""
        if not self._aborted:  # the first reason is the one
            self._aborted = True
            self.status = self._status(reason)
            super().abort(reason)

    def delivered_end(self, delivery: Delivery) -> None:
        """See Outlet."""
        delivery.stop()
        self.finish("end")

    def _status(self, reason: str) -> Status:
        return sent_away(reason, jittered(self.retry_ms))


class LinesConnection(CallConnection):
    """``LogStream.WatchLogs``: its shape has words for lines alone, so the status says all that is to say."""

    __slots__ = ()

    def beat(self) -> None:
        """See Connection: there is no word for it."""

    def say_expiring(self, expires_in_ms: int) -> None:
        """See Connection: there is no word for it."""

    def _status(self, reason: str) -> Status:
        return token_over(reason) or super()._status(reason)


class WatchConnection(CallConnection):
    """``StreamService.Watch``: whatever is said about the call is said in a message too."""

    __slots__ = ()

    def beat(self) -> None:
        """See Connection: proxies end a call that is silent, and HTTP/2's own pings do not count for them."""
        self.write(b"")

    def say_goodbye(self, reason: Leaving) -> None:
        """See Connection."""
        self.status = status = self._status(reason)
        self._tell(WatchResponse(reconnect=Reconnect(reason=reason, retry_ms=status.problem.retry_ms)))

    def say_expiring(self, expires_in_ms: int) -> None:
        """See Connection."""
        self._tell(WatchResponse(expiring=Expiring(expires_in_ms=expires_in_ms)))

    def refuse(self, delivery: Delivery, denied: Forbidden) -> None:
        """See Outlet."""
        self._tell(refusal(denied.code, denied))
        super().refuse(delivery, denied)

    def _tell(self, said: WatchResponse) -> None:
        self.write(said.SerializeToString())


def refusal(code: str, error: SluicegateError) -> WatchResponse:
    """What is told before a watch ends that would be refused again."""
    return WatchResponse(refused=Refused(code=code, detail=str(error), remedy=error.remedy))


class CallTransport(asyncio.Transport):
    """A call as asyncio shows a socket to a protocol; as much of it as a ``Connection`` asks for."""

    def __init__(self, call: Call, connection: CallConnection) -> None:
        super().__init__()
        self._call = call
        self._connection = connection
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._closing = self._aborted = False
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def carry(self) -> None:
        """Be the connection: send what it writes until it is closed, or aborted.

        Raises:
            asyncio.CancelledError: the client has left.
        """
        connection, messages = self._connection, self._connection.encoder.messages
        self._task = task = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            connection.connection_made(self)
            # By itself: with a first message that is never taken, no status could be sent any more.
            await self._call.send_initial_metadata(())
            while True:
                while self._unsent:
                    for message in messages(self._unsent.popleft()):
                        await self._call.write(message)
                        self._unsent_bytes -= len(message)
                self._unsent_bytes = 0  # whatever a write holds beside its messages
                if self._closing:
                    return
                self._woken.clear()
                if connection.paused:
                    connection.resume_writing()
                await self._woken.wait()
        except asyncio.CancelledError:
            if not self._aborted:
                raise
            task.uncancel()
        finally:
            self._closing = True
            connection.connection_lost(None)

    # -- asyncio.Transport ------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Have it sent; the connection is paused until it is."""
        if self._closing:
            return
        self._unsent.append(bytes(data))
        self._unsent_bytes += len(data)
        self._woken.set()
        self._connection.pause_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing to set: any byte that is not taken counts."""

    def get_write_buffer_size(self) -> int:
        """What gRPC does not have yet."""
        return self._unsent_bytes

    def is_closing(self) -> bool:
        """Whether it takes no more."""
        return self._closing

    def close(self) -> None:
        """End the call once all is sent."""
        self._closing = True
        self._woken.set()

    def abort(self) -> None:
        """Send no more. gRPC cannot take back what it has: the client reads that, and then the status."""
        if self._aborted or self._task is None:
            return
        self._closing = self._aborted = True
        self._unsent.clear()
        self._task.cancel()
