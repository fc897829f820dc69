"""Composition of an edge on Kafka: everything is made here, and nothing is global."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from connectors.kafka.notices import Notices
from connectors.kafka.producer import Appender
from edge.access.cors import Cors
from edge.access.doorkeeper import Doorkeeper
from edge.connections import connection_routes
from edge.control import control_routes
from edge.core import EdgeCore
from edge.errors import KindsRefused
from edge.events import EventsEndpoint
from edge.grpc_server import GrpcServer
from edge.guard import Guard
from edge.history import SharedHistory
from edge.kafka_history import KafkaHistory
from edge.llm.ask import Asker
from edge.llm.routes import llm_routes
from edge.pages import page_routes
from edge.problems import on_error, on_http_error, on_invalid_query, on_left
from edge.publish import AppendedAt, Publisher
from edge.selftest import selftest_route
from edge.tail import Decoder, Tail
from edge.upgrade import UpgradeEndpoint
from edge.warm import keep_warming
from schemas.errors import SluicegateError
from schemas.kinds import BUILTIN_KINDS
from schemas.payloads import PayloadCodec
from schemas.preflight import problems_of_all
from schemas.topics import OUTPUT, TOPICS, topic_version
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from starlette.types import ASGIApp, Receive, Scope, Send

    from connectors.kafka.options import KafkaOptions
    from edge.options import EdgeOptions
    from schemas.catalog import SchemaSource
    from schemas.kinds import Kind, KindTable
    from schemas.topics import TopicSpec

_BUILD_THREADS = 2
"""Requests checked at a time: the work is Python's, so more would only wait for each other."""


class EdgeApp:
    """An ASGI app with its core at hand: the server drains it, tests look into it."""

    def __init__(self, core: EdgeCore, app: FastAPI, grpc: GrpcServer | None) -> None:
        self.core = core
        self.grpc = grpc
        """Served beside it, if at all."""
        options, kept = core.options, Doorkeeper(app, core.gate)
        shared: ASGIApp = kept
        if options.cors_origins:  # before the doorkeeper: a preflight never carries a token
            shared = Cors(kept, options.cors_origins, cookies=bool(options.access.cookie))
        self._app = Guard(shared, allowed_hosts=options.allowed_hosts, origins=core.gate.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await self._app(scope, receive, send)


def create_app(
    options: EdgeOptions, kafka: KafkaOptions, registry: SchemaSource, kinds: KindTable = BUILTIN_KINDS
) -> EdgeApp:
    """Make an edge; Kafka is asked for the first time when the app starts.

    Raises:
        NetworkRefused: the options bind an address that is not loopback.
        KindsRefused: a kind cannot be served.
    """
    options.checked()
    check_kinds(kinds, kafka.kept(TOPICS))
    wire, payloads = WireCodec(registry), PayloadCodec(registry)
    core = EdgeCore(options, payloads, topic_version=topic_version(OUTPUT.name), kinds=kinds)
    decoder = Decoder(wire, payloads, kafka.topic_prefix)
    tail = Tail(
        core.hub,
        core.index,
        core.rejects,
        core.waiters,
        decoder,
        revoked=core,
        slowing=core.slowing,
        models=core.models,
    )
    history = KafkaHistory(kafka, options, decoder)
    shared = SharedHistory(history.read, options.history_cache_bytes_max, readers=options.history_readers)
    core.feed_from(tail, shared, history.look_up)
    appender = LateAppender(kafka)
    core.notices = notices = Notices(kafka, wire)
    threads = ThreadPoolExecutor(_BUILD_THREADS, thread_name_prefix="publish")
    publisher = Publisher(
        appender,
        wire,
        payloads,
        kinds,
        core.waiters,
        core.metrics,
        options,
        core.quotas,
        threads,
        topic_prefix=kafka.topic_prefix,
        pressure=core.slowing,
    )

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        appender.start()
        notices.start()
        tail.start(kafka, options, asyncio.get_running_loop())
        core.start()
        core.cold = "the schemas of our own types have not been fetched yet"
        warming = asyncio.create_task(keep_warming(core, registry, wire, payloads))
        try:
            yield
        finally:
            warming.cancel()
            await core.stop()
            await asyncio.to_thread(tail.stop)
            await appender.close()
            await asyncio.to_thread(notices.close)
            await asyncio.to_thread(history.close)
            threads.shutdown(wait=False, cancel_futures=True)

    return compose(core, publisher, life, Asker(core, publisher, wire, topic_prefix=kafka.topic_prefix))


def check_kinds(kinds: Iterable[Kind], topics: Sequence[TopicSpec] = TOPICS) -> None:
    """Raise KindsRefused, with every problem, for kinds whose policies cannot be kept."""
    if problems := problems_of_all(kinds, topics):
        raise KindsRefused(f"kinds cannot be served: {'; '.join(problems)}")


def compose(
    core: EdgeCore,
    publisher: Publisher | None,
    life: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    asker: Asker | None = None,
) -> EdgeApp:
    """Put transports and pages upon a core; without an asker no model can be asked."""
    app = FastAPI(
        title="sluicegate edge",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        lifespan=life,
        exception_handlers={
            SluicegateError: on_error,
            HTTPException: on_http_error,
            RequestValidationError: on_invalid_query,
            ClientDisconnect: on_left,
        },
    )
    app.include_router(control_routes(core, publisher))
    app.include_router(connection_routes(core))
    if asker is not None and publisher is not None:
        app.include_router(llm_routes(core, asker, publisher))
    app.router.routes.append(
        Route("/v1/streams/{stream_id}/events", EventsEndpoint(core), methods=["GET"], name="events")
    )
    app.router.routes.append(selftest_route())
    app.router.routes.append(
        Route("/v1/ws", UpgradeEndpoint(core, publisher), methods=["GET"], name="websocket")
    )
    app.router.routes.extend(page_routes(core))
    grpc = GrpcServer(core, publisher) if core.options.grpc_port >= 0 else None
    return EdgeApp(core, app, grpc)


class LateAppender:
    """An appender whose threads start with the app, not with its making."""

    def __init__(self, kafka: KafkaOptions) -> None:
        self._kafka = kafka
        self._appender: Appender | None = None

    def start(self) -> None:
        """Connect."""
        self._appender = Appender(self._kafka)

    async def append_transaction(
        self, records: Sequence[tuple[str, bytes, bytes, int | None]]
    ) -> Sequence[AppendedAt]:
        """See Append."""
        assert self._appender is not None
        return await self._appender.append_transaction(records)

    async def close(self) -> None:
        """See Appender."""
        if self._appender is not None:
            await self._appender.close()
