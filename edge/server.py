"""Serves an edge until it is told to stop, and then lets its clients go without losing one of them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import structlog
import uvicorn
import uvloop

from connectors import heap
from edge.errors import PortInUse
from edge.files import http_connections_max, within_files
from edge.listener import Listener
from edge.protocol import EdgeProtocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from edge.app import EdgeApp
    from edge.options import EdgeOptions

log = structlog.get_logger(__name__)
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_BACKLOG = 4_096
_SEND_BUFFER_BYTES = 131_072
"""Asked of the kernel for each client, which takes twice that. Its own choice grows to 4 MiB for one that
stops reading, out of sight of whoever watches this process: 2,000 of them would hold 8 GB. It bounds what is
on the way to one client: at 200 ms to it and back, 1.3 MB a second."""
_FINISH_S = 5
"""For requests that are under way when the drain is over; an append is bounded by its transaction."""


def bind(
    host: str, port: int, *, shared: bool = False, listens: bool = True, option: str = "port"
) -> socket.socket:
    """Take the address now, so that a port in use is told before anything is started.

    ``shared``: other processes of this user may take it too, and each gets a share of the connections.
    ``option`` names the setting in an error.

    Raises:
        PortInUse: something else listens there, or the address is not this machine's.
    """
    name = host.strip("[]")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart must not wait for TIME_WAIT
    if shared:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # What is accepted inherits it.
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    try:
        taken.bind((name, port))
        if listens:  # one that does not only keeps the address for those who do
            taken.listen(_BACKLOG)
    except OSError as error:
        taken.close()
        raise PortInUse(host, port, error.strerror or str(error), option) from None
    taken.setblocking(False)  # noqa: FBT003  # the standard library's signature
    return taken


def hold_for_grpc(host: str, port: int | None, *, beside: int) -> socket.socket:
    """Keep a port for the gRPC servers of this process or its children, which bind it anew.

    None: the one after HTTP's, which is ``beside``, or any if somebody has that. Raises PortInUse.
    """
    if port is None:
        try:
            return hold_for_grpc(host, beside + 1, beside=beside)
        except (PortInUse, OverflowError):  # nobody asked for that one
            return hold_for_grpc(host, 0, beside=beside)
    if port > 0:  # the one that is kept could be shared with another edge: nobody may have it yet
        bind(host, port, option="grpc_port").close()
    return bind(host, port, shared=True, listens=False, option="grpc_port")


def url_of(listening: socket.socket) -> str:
    """The address of a bound socket as a browser takes it."""
    host, port = listening.getsockname()[:2]
    return f"http://{address_of(host, port)}"


def address_of(host: str, port: int) -> str:
    """Host and port as whoever connects says them."""
    name = host.strip("[]")
    if name in ("0.0.0.0", "::"):  # noqa: S104  # told apart, not bound
        name = "127.0.0.1"
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def run(app: EdgeApp, listening: socket.socket, *, on_listening: Callable[[], None] | None = None) -> None:
    """``serve`` on a loop of its own: uvloop's, which writes to many clients for less.

    Raises:
        FilesRefused: this process may open no file for a client.
    """
    app.core.options = within_files(app.core.options)
    heap.bound_what_is_free()
    heap.freeze(heap.BY_THE_THOUSAND)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(app, listening, on_listening=on_listening))


async def serve(
    app: EdgeApp, listening: socket.socket, *, on_listening: Callable[[], None] | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, and then drain.

    1. Say that no traffic should come; one of several processes leaves new clients to the others. 2. Send
    the clients away, spread over ``drain_ms``. 3. Finish what is under way. 4. Let go of Kafka. A second
    signal skips what is left of it.
    """
    server = _Server(
        uvicorn.Config(
            app,
            loop="none",  # it runs on the one that is there: see ``run``
            http=partial(EdgeProtocol, options=app.core.options),  # type: ignore[arg-type]  # it makes one
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="error",  # what a client sent that is no HTTP is answered, and is no news
            proxy_headers=False,  # it would take any program of this machine for a proxy: ``proxies.py``
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_FINISH_S,
        ),
        on_listening,
        app,
    )
    loop = asyncio.get_running_loop()
    stopping, hurrying = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            server.force_exit = True
            hurrying.set()
        stopping.set()

    if app.grpc is not None:
        app.grpc.bind()
    for number in _STOPPING:
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGUSR1, _say_whom_to_ask, app.core.siblings is not None)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    await _first(serving, stopping.wait())
    if not serving.done():
        log.info("draining", connections=app.core.connections)
        if app.grpc is not None:
            app.grpc.drain()
        if app.core.siblings is not None:
            server.stop_listening()
        await _first(serving, app.core.drain(), hurrying.wait())
        server.should_exit = True
    await serving
    for number in (*_STOPPING, signal.SIGUSR1):  # all is served: one on the way out makes no failure of it
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


def _say_whom_to_ask(is_one_of_several: bool) -> None:  # noqa: FBT001  # a signal handler has no keywords
    """SIGUSR1 asks for a rolling restart: of one process that would be a stop, so nothing is done."""
    log.warning(
        "sigusr1_ignored",
        remedy="send it to the parent of these processes"
        if is_one_of_several
        else "a rolling restart needs several processes: sluicegate edge --processes 2",
    )


async def _first(serving: asyncio.Task[None], *others: Coroutine[Any, Any, object]) -> None:
    """Wait until one is done; all but ``serving`` are given up then."""
    tasks = [asyncio.create_task(other) for other in others]
    await asyncio.wait({serving, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _user_timeout_ms(options: EdgeOptions) -> int:
    """TCP_USER_TIMEOUT, which counts while a peer takes nothing, too: the policy is to act first."""
    asked_ms = options.tcp_user_timeout_ms
    return max(asked_ms, 3 * options.write_stall_ms_max // 2) if asked_ms else 0


class _Server(uvicorn.Server):
    """Leaves the signals to us, as the drain comes before the server's own shutdown."""

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], None] | None, app: EdgeApp) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._siblings = app.core.siblings
        self._grpc = app.grpc
        self._options = app.core.options
        self._private: asyncio.AbstractServer | None = None
        self._listener: Listener | None = None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let go of the siblings' socket too, and of gRPC, before what their requests need is let go."""
        self.stop_listening()
        if self._listener is not None:
            await self._listener.all_made(0 if self.force_exit else _FINISH_S)
        if self._private is not None:
            self._private.close()
        if self._grpc is not None:
            await self._grpc.stop(0 if self.force_exit else _FINISH_S)
        await super().shutdown(sockets)
        if self.force_exit:  # the app's life is cancelled next, as was asked for: no failure to tell of
            self.lifespan.logger.disabled = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        yield

    def stop_listening(self) -> None:
        """Take no new connection; those that are there go on."""
        if self._listener is not None:
            self._listener.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say when requests are answered; by its siblings, over a socket of its own."""
        assert sockets is not None  # ``serve`` has bound it
        (listening,) = sockets
        await super().startup([])
        if not self.started:
            return
        make: Callable[..., asyncio.Protocol] = partial(
            cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        if self._siblings is not None:
            loop = asyncio.get_running_loop()
            own = self._siblings.bind()
            self._private = await loop.create_unix_server(partial(make, private=True), sock=own)
        if self._grpc is not None:
            await self._grpc.start()
        self._listener = Listener(
            listening,
            make,
            connections_max=http_connections_max(self._options),
            user_timeout_ms=_user_timeout_ms(self._options),
        )
        if self._on_listening is not None:
            self._on_listening()
