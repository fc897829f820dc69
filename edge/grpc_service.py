"""``StreamService`` and ``LogStream``: the same admission, places and publisher as over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar
from urllib.parse import unquote

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from edge.access.identity import Identity
from edge.admission import Admission
from edge.control import counted, stream_to_cancel
from edge.errors import HistoryUnavailable, RequestError
from edge.grpc_call import (
    Call,
    CallConnection,
    CallTransport,
    LinesConnection,
    WatchConnection,
    refusal,
)
from edge.grpc_errors import Status, failed, sent_away, status_of
from edge.grpc_messages import LogEncoder, WatchEncoder
from edge.grpc_publish import answer_of, values_of
from edge.held_back import HELD_BACK_S_MAX, wait_for_credit
from edge.join import Over
from edge.problems import code_of
from edge.publish import PublishRequest as Asked
from edge.sse import jittered
from schemas.envelope import DEFAULT_TENANT, check_stream_name, stream_key
from schemas.errors import CursorError, SluicegateError
from schemas.proto.sluicegate.v1.logs_pb2 import LogRequest
from schemas.proto.sluicegate.v1.stream_pb2 import (
    CancelRequest,
    CancelResponse,
    PublishRequest,
    WatchRequest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from edge.core import EdgeCore
    from edge.publish import Publisher
    from schemas.cursor import Cursor


log = structlog.get_logger(__name__)
M = TypeVar("M", bound=Message)
Method = Callable[[Any, Call, Identity], Awaitable[Any]]
Behaviour = Callable[[Any, Call], Awaitable[Any]]
STREAM_SERVICE: Final = "sluicegate.v1.StreamService"
LOG_SERVICE: Final = "sluicegate.v1.LogStream"


class StreamCalls:
    """The methods, each from the bytes of a request to those of its answers."""

    def __init__(self, core: EdgeCore, publisher: Publisher | None) -> None:
        self._core = core
        self._publisher = publisher
        self._admission = Admission(core)
        self._events = WatchEncoder(core.json)
        self._lines = LogEncoder(core.json)
        self.under_way = 0
        """Calls that have not ended."""
        self._ending = 0
        """Calls that are over for us, and whose clients do not read what they were written before."""

    def answered(self, method: Method) -> Behaviour:
        """Ask who calls, and have errors end the call with their status.

        What ought not to happen is told in the log alone.
        """

        async def answer(request: Any, call: Call) -> Any:
            self.under_way += 1
            try:
                identity = await self._core.gate.identify(_headers(call))
                return await method(request, call, identity)
            except (grpc.aio.AbortError, asyncio.CancelledError):
                raise
            except SluicegateError as error:
                await _end(call, status_of(error))
            except Exception as error:
                log.exception("call_failed", cause=str(error))
                await _end(call, failed())
            finally:
                self.under_way -= 1

        return answer

    # -- reading ----------------------------------------------------------------------------------------

    async def watch(self, request: bytes, call: Call, identity: Identity) -> None:
        """``StreamService.Watch``."""
        asked = _parsed(WatchRequest, request)
        tenant, stream_id = asked.tenant or DEFAULT_TENANT, asked.stream_id
        check_stream_name(tenant, stream_id)
        self._admission.check_read(identity, tenant, stream_id, "")
        try:
            cursor = self._admission.cursor(asked.cursor, tenant, stream_id) if asked.cursor else None
        except CursorError as error:
            self._core.metrics.joins.labels("grpc", "refused").inc()
            await call.write(refusal(code_of(error), error).SerializeToString())
            raise
        await self._follow(call, identity, tenant, stream_id, cursor)

    async def watch_logs(self, request: bytes, call: Call, identity: Identity) -> None:
        """``LogStream.WatchLogs``; its shape names no tenant: it is the token's, if that allows but one."""
        stream_id, tenant = _parsed(LogRequest, request).job_id, identity.tenants.only or DEFAULT_TENANT
        check_stream_name(tenant, stream_id)
        await self._follow(call, identity, tenant, stream_id, None, lines=True)

    async def _follow(
        self,
        call: Call,
        identity: Identity,
        tenant: str,
        stream_id: str,
        cursor: Cursor | None,
        *,
        lines: bool = False,
    ) -> None:
        """Give a stream from a place on, until its end or the call's."""
        core, admission = self._core, self._admission
        busy = await admission.busy()
        crowded = core.connections + self._ending >= core.options.connections_max
        if not busy and (crowded or admission.is_full(tenant)):
            busy = "overload"
        if busy:
            core.metrics.joins.labels("grpc", busy).inc()
            await _end(call, sent_away(busy, jittered(2 * core.options.retry_ms)))
        try:
            peer = self._peer(call)
            joined = await admission.join("grpc", tenant, stream_id, cursor, peer, identity=identity)
        except HistoryUnavailable:
            await _end(call, sent_away("unready", jittered(2 * core.options.retry_ms)))
        if isinstance(joined, Over):
            core.metrics.joins.labels("grpc", "over").inc()
            return
        limits = admission.limits(core.joiner.kind_of(stream_key(tenant, stream_id)))
        if lines:
            connection: CallConnection = LinesConnection(core, joined, self._lines, limits)
        else:
            connection = WatchConnection(core, joined, self._events, limits)
        await CallTransport(call, connection).carry()
        if connection.status is not None:
            self._ending += 1
            try:
                await _end(call, connection.status)
            finally:
                self._ending -= 1

    # -- writing ----------------------------------------------------------------------------------------

    async def publish(self, request: bytes, _call: Call, identity: Identity) -> bytes:
        """``StreamService.Publish``."""
        return await self._publish(_parsed(PublishRequest, request), identity)

    async def _publish(self, asked: PublishRequest, identity: Identity) -> bytes:
        publisher = self._writer()
        tenant = asked.tenant or DEFAULT_TENANT
        kind = asked.kind or self._core.joiner.kind_name(stream_key(tenant, asked.stream_id)) or None
        to = Asked(tenant, asked.stream_id, kind, asked.wait_committed, identity, "grpc")
        # A Struct is taken apart in Python, a member at a time: 1 MiB of it would hold up every stream.
        slow = any(event.WhichOneof("payload") == "fields" for event in asked.events)
        values = await asyncio.to_thread(values_of, asked.events) if slow else values_of(asked.events)
        publishing = publisher.publish_values(to, values)
        answer = answer_of(await counted(self._core, publishing))
        return answer.SerializeToString()

    async def publish_many(self, requests: AsyncIterable[bytes], call: Call, identity: Identity) -> None:
        """``StreamService.PublishMany``: one at a time, so what is ahead of the edge waits at its client."""
        async for request in requests:
            await call.write(await self._publish_in_time(_parsed(PublishRequest, request), identity))

    async def _publish_in_time(self, asked: PublishRequest, identity: Identity) -> bytes:
        """Publish once stream and tenant may; nothing more is read till then, which slows the client."""
        core, key = self._core, stream_key(asked.tenant or DEFAULT_TENANT, asked.stream_id)
        until_s = core.now_s() + HELD_BACK_S_MAX
        while True:
            core.gate.check_still(identity)
            try:
                return await self._publish(asked, identity)
            except RequestError as refused:
                await wait_for_credit(
                    refused, core.slowing, key, until_s=until_s, may_wait=lambda: not core.draining
                )

    async def cancel(self, request: bytes, _call: Call, identity: Identity) -> bytes:
        """``StreamService.Cancel``."""
        publisher = self._writer()
        asked = _parsed(CancelRequest, request)
        tenant = asked.tenant or DEFAULT_TENANT
        entry = await stream_to_cancel(self._core, tenant, asked.stream_id, identity)
        fields = {name: value for name in ("reason", "by") if (value := getattr(asked, name))}
        to = Asked(tenant, asked.stream_id, entry.kind, wait=False, identity=identity, transport="grpc")
        await counted(self._core, publisher.publish_one(to, "cancel", fields))
        return CancelResponse().SerializeToString()

    def _peer(self, call: Call) -> str:
        """The client's address, as over HTTP: gRPC says ``ipv4:127.0.0.1:5000``, ``ipv6:%5B::1%5D:5000``."""
        host, _, port = unquote(call.peer().partition(":")[2]).rpartition(":")
        return self._core.proxies.name(host.strip("[]"), port, _headers(call))

    def _writer(self) -> Publisher:
        if self._publisher is None:
            raise RequestError(404, "Nothing to publish to", "this edge plays a recording: it only shows")
        return self._publisher


async def _end(call: Call, status: Status) -> NoReturn:
    """End a call with an error."""
    await call.abort(status.code, status.problem.detail, status.metadata)


def _parsed(kind: type[M], data: bytes) -> M:
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.full_name
        raise RequestError(
            400, "Not a message", f"the request is no {name}", remedy="Use the .proto of this edge."
        ) from None


def _headers(call: Call) -> list[tuple[bytes, bytes]]:
    """Metadata as HTTP's headers are."""
    return [
        (name.encode(), value if isinstance(value, bytes) else value.encode(errors="replace"))
        for name, value in call.invocation_metadata()
    ]
