"""``StreamService`` and ``LogStream``: the same admission, places and publisher as over HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import unquote

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
from edge.grpc_errors import end, ended_by_status, sent_away
from edge.grpc_messages import LogEncoder, WatchEncoder
from edge.grpc_publish import answer_of, values_of
from edge.grpc_requests import Requests, overloaded, parsed
from edge.held_back import HELD_BACK_S_MAX, wait_for_credit
from edge.join import Over
from edge.problems import code_of
from edge.publish import PublishRequest as Asked
from edge.sse import jittered
from schemas.envelope import DEFAULT_TENANT, check_stream_name, stream_key
from schemas.errors import CursorError
from schemas.proto.sluicegate.v1.logs_pb2 import LogRequest
from schemas.proto.sluicegate.v1.stream_pb2 import (
    CancelRequest,
    CancelResponse,
    PublishRequest,
    WatchRequest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from edge.connection import Leaving
    from edge.core import EdgeCore
    from edge.grpc_errors import Behaviour
    from edge.publish import Publisher
    from schemas.cursor import Cursor

Method = Callable[[Any, Call, Identity], Awaitable[Any]]
STREAM_SERVICE: Final = "sluicegate.v1.StreamService"
LOG_SERVICE: Final = "sluicegate.v1.LogStream"
_STILL_S: Final = 5.0
"""How late a call that sends nothing may learn that its token has ended."""


class StreamCalls:
    """The methods, each from the bytes of a request to those of its answers."""

    def __init__(self, core: EdgeCore, publisher: Publisher | None) -> None:
        self._core = core
        self._publisher = publisher
        self._admission = Admission(core)
        self._events = WatchEncoder(core.json)
        self._lines = LogEncoder(core.json)
        self._requests = Requests(core.options.publishing_max, core.options.request_read_ms_max)
        self._publishers: Counter[str] = Counter()
        """Calls of ``PublishMany``, by whose token they came with."""
        """Calls of ``PublishMany``: at each the next message may be on its way."""
        self.under_way = 0
        """Calls that have not ended."""

    def answered(self, method: Method) -> Behaviour:
        """Ask who calls, and have errors end the call with their status."""

        async def identified(request: Any, call: Call) -> Any:
            return await method(request, call, await self._core.gate.identify(_headers(call)))

        ended = ended_by_status(identified)

        async def answer(request: Any, call: Call) -> Any:
            self.under_way += 1
            try:
                return await ended(request, call)
            finally:
                self.under_way -= 1

        return answer

    def asked_once(self, method: Method) -> Method:
        """Give a method that is handed its request as one that reads it from the call."""

        async def read(_stream: object, call: Call, identity: Identity) -> Any:
            return await method(await self._requests.one(call), call, identity)

        return read

    # -- reading ----------------------------------------------------------------------------------------

    async def watch(self, request: bytes, call: Call, identity: Identity) -> None:
        """``StreamService.Watch``."""
        asked = parsed(WatchRequest, request)
        tenant, stream_id = asked.tenant or DEFAULT_TENANT, asked.stream_id
        check_stream_name(tenant, stream_id)
        self._admission.check_read(identity, tenant, stream_id)
        try:
            cursor = self._admission.cursor(asked.cursor, tenant, stream_id) if asked.cursor else None
        except CursorError as error:
            self._core.metrics.joins.labels("grpc", "refused").inc()
            await call.write(refusal(code_of(error), error).SerializeToString())
            raise
        await self._follow(call, identity, tenant, stream_id, cursor)

    async def watch_logs(self, request: bytes, call: Call, identity: Identity) -> None:
        """``LogStream.WatchLogs``; its shape names no tenant: it is the token's, if that allows but one."""
        stream_id, tenant = parsed(LogRequest, request).job_id, identity.tenants.only or DEFAULT_TENANT
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
        busy = await admission.busy() or ("overload" if admission.is_full(tenant) else "")
        if busy:
            await self._turn_away(call, busy)
        try:
            peer = self._peer(call)
            joined = await admission.join("grpc", tenant, stream_id, cursor, peer, identity=identity)
        except HistoryUnavailable:
            await self._turn_away(call, "unready")
        if isinstance(joined, Over):
            core.metrics.joins.labels("grpc", "over").inc()
            return
        if admission.has_no_room() or admission.is_full(tenant):  # others came meanwhile
            core.hub.detach(joined.subscriber)
            await self._turn_away(call, "overload")
        limits = admission.limits(core.joiner.kind_of(stream_key(tenant, stream_id)))
        if lines:
            connection: CallConnection = LinesConnection(core, joined, self._lines, limits)
        else:
            connection = WatchConnection(core, joined, self._events, limits)
        await CallTransport(call, connection).carry()
        if connection.status is not None:
            # Who does not read what it was written before keeps its place, and its tenant's.
            core.held += 1
            core.quotas.opened(connection.tenant)
            try:
                await end(call, connection.status)
            finally:
                core.quotas.closed(connection.tenant)
                core.held -= 1

    async def _turn_away(self, call: Call, reason: Leaving) -> NoReturn:
        """End the call of a client that cannot be taken now, and say when it is to come again."""
        self._core.metrics.joins.labels("grpc", reason).inc()
        await end(call, sent_away(reason, jittered(2 * self._core.options.retry_ms)))

    # -- writing ----------------------------------------------------------------------------------------

    async def publish(self, request: bytes, _call: Call, identity: Identity) -> bytes:
        """``StreamService.Publish``."""
        return await self._publish(parsed(PublishRequest, request), identity)

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
        if (denied := identity.may_publish_at_all()) is not None:  # or readers could hold all places
            self._core.gate.denied(denied)
            raise denied
        most, whose = self._core.options.grpc_publishers_max, identity.subject or identity.token_id
        if self._publishers.total() >= most or (whose and self._publishers[whose] >= max(most // 4, 1)):
            raise overloaded(f"{self._publishers[whose]} calls of PublishMany of yours are under way already")
        self._publishers[whose] += 1
        try:
            coming = aiter(requests)
            while (request := await self._next(coming, identity)) is not None:
                await call.write(await self._publish_in_time(parsed(PublishRequest, request), identity))
        finally:
            self._publishers -= Counter((whose,))

    async def _next(self, coming: AsyncIterator[bytes], identity: Identity) -> bytes | None:
        """Wait for the next message, as long as its sender may send one; None if none comes any more."""
        idle_ms_max = self._core.options.grpc_publisher_idle_ms
        until_s = self._core.now_s() + idle_ms_max / 1_000
        reading = asyncio.ensure_future(anext(coming, None))
        try:
            while not reading.done():
                self._core.gate.check_still(identity)
                if (left_s := until_s - self._core.now_s()) <= 0:
                    raise RequestError(
                        408,
                        "Nothing to publish",
                        f"no message came for {idle_ms_max} ms; all before were answered",
                        remedy="Call again when there is something to publish.",
                    )
                await asyncio.wait((reading,), timeout=min(left_s, _STILL_S))
            return reading.result()
        finally:
            reading.cancel()

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
        asked = parsed(CancelRequest, request)
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


def _headers(call: Call) -> list[tuple[bytes, bytes]]:
    """Metadata as HTTP's headers are."""
    return [
        (name.encode(), value if isinstance(value, bytes) else value.encode(errors="replace"))
        for name, value in call.invocation_metadata()
    ]
