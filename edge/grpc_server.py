"""The gRPC server beside the HTTP one: same process, same loop, a port of its own.

It needs no guard against other sites' pages: no browser speaks HTTP/2 without TLS.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import grpc

from edge.errors import PortInUse
from edge.grpc_errors import ended_by_status
from edge.grpc_health import (
    HEALTH_SERVICE,
    OLD_REFLECTION_SERVICE,
    REFLECTION_SERVICE,
    Health,
    Reflection,
)
from edge.grpc_service import LOG_SERVICE, STREAM_SERVICE, StreamCalls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.core import EdgeCore
    from edge.options import EdgeOptions
    from edge.publish import Publisher

_SERVICES: Final = (STREAM_SERVICE, LOG_SERVICE)
_LOOK_AT_CALLS_S: Final = 0.02
_NO_END_S: Final = 86_400.0
_OTHER_CALLS_MAX: Final = 1_000
"""Beside as many watches as there may be: publishing, health checks, reflection."""
_MESSAGE_ROOM: Final = 65_536
"""Envelope and framing of a request whose events come to as much as a body over HTTP may."""


class GrpcServer:
    """To be bound first, so that a port in use is told before anything starts; then started and stopped."""

    def __init__(self, core: EdgeCore, publisher: Publisher | None) -> None:
        self._core = core
        self._calls = StreamCalls(core, publisher)
        self._health = Health(core, _SERVICES)
        self._stopping: asyncio.Task[None] | None = None

    def bind(self) -> int:
        """Take the port and give its number; on the loop that serves it. Raises PortInUse."""
        options = self._core.options
        self._server = grpc.aio.server(
            options=_channel_options(options),
            maximum_concurrent_rpcs=options.connections_max + _OTHER_CALLS_MAX,
        )
        methods = _Methods(self._calls, self._health, Reflection(_SERVICES))
        self._server.add_generic_rpc_handlers((methods,))
        host = options.host.strip("[]")
        address = f"[{host}]:{options.grpc_port}" if ":" in host else f"{host}:{options.grpc_port}"
        try:
            return int(self._server.add_insecure_port(address))
        except RuntimeError:
            raise PortInUse(host, options.grpc_port, "address already in use", "grpc_port") from None

    async def start(self) -> None:
        """Answer calls."""
        await self._server.start()
        self._health.start()

    def drain(self) -> None:
        """Say that no traffic should come here; watches are sent away by the core, as all clients are.

        One of several processes listens no more, and tells its clients to make new calls elsewhere.
        """
        self._health.no_traffic()
        if self._core.siblings is not None:
            self._take_no_more()

    async def stop(self, grace_s: float) -> None:
        """Take no new call, wait so long for those that are there, and end what is left.

        Whoever watches the health is not waited for: such a call has no end.
        """
        loop = asyncio.get_running_loop()
        self._health.stop()
        stopping = self._take_no_more()
        deadline_s = loop.time() + grace_s
        while self._calls.under_way and loop.time() < deadline_s:  # noqa: ASYNC110  # once, at the end
            await asyncio.sleep(_LOOK_AT_CALLS_S)
        await self._server.stop(None)
        await stopping

    def _take_no_more(self) -> asyncio.Task[None]:
        """Have gRPC stop, by itself only when all calls are over.

        Two stops with a grace must never wait at once: the one that runs out after the other is done reaches
        for a server that is no more, and the process dies by SIGSEGV (grpcio 1.85).
        """
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._server.stop(_NO_END_S))
        return self._stopping


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC carries no types
    """Finds a call's method. Messages stay bytes: an event is encoded once for all who watch it.

    To gRPC each is one that takes a stream: it then reads by itself (``edge/grpc_requests.py``).
    """

    def __init__(self, calls: StreamCalls, health: Health, reflection: Reflection) -> None:
        one, many = grpc.stream_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        self._logs = many(calls.answered(calls.asked_once(calls.watch_logs)))
        reflected = many(ended_by_status(reflection.info))
        self._methods = {
            f"/{STREAM_SERVICE}/Watch": many(calls.answered(calls.asked_once(calls.watch))),
            f"/{STREAM_SERVICE}/Publish": one(calls.answered(calls.asked_once(calls.publish))),
            f"/{STREAM_SERVICE}/PublishMany": many(calls.answered(calls.publish_many)),
            f"/{STREAM_SERVICE}/Cancel": one(calls.answered(calls.asked_once(calls.cancel))),
            f"/{HEALTH_SERVICE}/Check": one(ended_by_status(health.check)),
            f"/{HEALTH_SERVICE}/Watch": many(ended_by_status(health.watch)),
            f"/{REFLECTION_SERVICE}/ServerReflectionInfo": reflected,
            f"/{OLD_REFLECTION_SERVICE}/ServerReflectionInfo": reflected,
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """See grpc."""
        service, _, method = details.method.removeprefix("/").partition("/")
        # The shape is older than this edge: its users' .proto say other packages, or none.
        if method == "WatchLogs" and service.rpartition(".")[2] == "LogStream":
            return self._logs
        return self._methods.get(details.method)


def _channel_options(options: EdgeOptions) -> Sequence[tuple[str, int]]:
    """What HTTP/2 is told; names are gRPC core's channel arguments."""
    return (
        # Processes that share the address each bind it; `sluicegate edge` finds out if a stranger has it.
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", options.request_bytes_max + _MESSAGE_ROOM),
        # A window that grows with the line would be granted to each call of a connection, asked for or not.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_send_message_length", -1),  # a write is bounded by ``write_bytes_max``, or is one event
        ("grpc.max_metadata_size", options.header_bytes_max),
        ("grpc.absolute_max_metadata_size", options.header_bytes_max),
        ("grpc.max_concurrent_streams", options.grpc_streams_max),
        ("grpc.max_allowed_incoming_connections", options.grpc_connections_max),
        ("grpc.server_handshake_timeout_ms", options.header_read_ms_max),
        # A peer that is gone without a word (a cable, a suspended laptop) is found by a ping.
        ("grpc.keepalive_time_ms", options.grpc_keepalive_ms),
        ("grpc.keepalive_timeout_ms", options.grpc_keepalive_timeout_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        # A client may look as often, and one that pings much oftener is cut off.
        ("grpc.http2.min_ping_interval_without_data_ms", options.grpc_keepalive_ms // 2),
        ("grpc.http2.max_ping_strikes", 2),
        # One without any call answers pings for as long as it likes, and holds one of our files.
        ("grpc.max_connection_idle_ms", options.grpc_connection_idle_ms),
        # So that new calls find their way to other edges in the end; those under way go on. Nothing but the
        # end of its connection ends a call whose client never reads what it was written.
        ("grpc.max_connection_age_ms", options.grpc_connection_age_ms),
        ("grpc.max_connection_age_grace_ms", options.grpc_connection_age_ms),
    )
