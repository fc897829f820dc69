"""A shown edge that takes events, too, and keeps none: for bodies that are sent to its port."""

from __future__ import annotations

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from edge.app import EdgeApp, compose
from edge.core import EdgeCore
from edge.history import SharedHistory
from edge.options import EdgeOptions
from edge.publish import Publisher
from edge.recorded import MemoryLog, Player, Playing
from edge.server import bind, run
from schemas.catalog import LocalSchemas
from schemas.kinds import BUILTIN_KINDS
from schemas.payloads import PayloadCodec
from schemas.recording import RecordedEvent, RecordingHeader
from schemas.wire import WireCodec
from tests.support.shown_edge import ShownEdge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI

BEGAN = "2026-01-01T00:00:00Z"


@dataclass
class TakingEdge(ShownEdge):
    """As a shown one, and ``one`` can be published to and cancelled."""

    module: str = "tests.support.taking_edge"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record would stand."""

    partition: int = 0
    offset: int = 0


class Nowhere:
    """Appends nothing."""

    async def append_transaction(self, records: Any) -> list[Place]:
        """See Append."""
        return [Place() for _ in records]


def taking_app(options: EdgeOptions) -> EdgeApp:
    """Make its app."""
    schemas, log = LocalSchemas(), MemoryLog()
    core = EdgeCore(options, PayloadCodec(schemas), topic_version=1)
    core.feed_from(log, SharedHistory(log.read, options.history_cache_bytes_max))
    header = RecordingHeader("default", "one", "chat", BEGAN)
    player = Player(core, log, header, [RecordedEvent(0, "e-0", "open", 0, BEGAN, {})], Playing())
    publisher = Publisher(
        Nowhere(),
        WireCodec(schemas),
        core.payloads,
        BUILTIN_KINDS,
        core.waiters,
        core.metrics,
        options,
        core.quotas,
        ThreadPoolExecutor(1),
        topic_prefix="",
        pressure=core.slowing,
    )

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        core.start()
        core.all_revoked()
        playing = asyncio.create_task(player.run())
        try:
            yield
        finally:
            playing.cancel()
            await core.stop()

    return compose(core, publisher, life)


def main() -> None:
    """Be the process."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    options = EdgeOptions(**json.loads(sys.argv[1]))
    run(taking_app(options), bind(options.host, options.port))


if __name__ == "__main__":
    main()
