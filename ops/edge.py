"""An edge's process: its options out of the settings, its address for others to find, then the server."""

from __future__ import annotations

import os
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import orjson

from connectors.kafka.access import check_topics
from connectors.kafka.admin import ensure_topics
from connectors.registry import Registry
from edge.access.options import AccessOptions
from edge.app import create_app
from edge.options import EdgeOptions
from edge.server import bind, run, url_of
from ops import console
from ops.addresses import addresses, edge_file, kafka_options
from ops.extension import extension_of
from ops.logs import configure_logs
from schemas.access import OF_EDGE
from schemas.topics import TOPICS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ops.settings import Settings


def edge_options(
    settings: Settings,
    host: str | None = None,
    port: int | None = None,
    *,
    process: int = 0,
    siblings: Path | None = None,
) -> EdgeOptions:
    """What an edge is told; the command line's words go before the settings."""
    edge = settings.edge
    return EdgeOptions(
        host=edge.host if host is None else host,
        port=edge.port if port is None else port,
        allow_network=edge.allow_network,
        allowed_hosts=edge.allowed_hosts,
        drain_ms=edge.drain_ms,
        process=process,
        siblings=siblings,
        access=AccessOptions(**settings.access.model_dump()),
        cors_origins=edge.cors_origins,
        connections_max=edge.connections_max,
        retry_ms=edge.retry_ms,
        tenant_connections_max=edge.tenant_connections_max,
        tenant_events_per_s_max=edge.tenant_events_per_s_max,
        header_bytes_max=edge.header_bytes_max,
        headers_max=edge.headers_max,
    )


def run_edge(
    settings: Settings,
    host: str | None,
    port: int | None,
    *,
    process: int = 0,
    siblings: Path | None = None,
) -> int:
    """Serve until a signal; 0 if it was stopped on purpose.

    ``siblings``: it is one of several processes, whose parent says where they are.

    Raises:
        NetworkRefused, PortInUse: the address.
        KeysRefused, OriginsRefused: whom it is to let in.
        NoStack: nothing says where Kafka and the registry are.
        RegistryUnavailable, KafkaUnavailable: they do not answer at the start.
        NotAuthorized: an ACL is missing.
    """
    options = edge_options(settings, host, port, process=process, siblings=siblings).checked()
    kinds = extension_of(settings).all_kinds()
    where = addresses(settings)
    kafka = kafka_options(settings, where.kafka)
    configure_logs()
    # The port first: it is the mistake that is made most, and nothing needs to be asked to find it.
    with (
        closing(bind(options.host, options.port, shared=siblings is not None)) as listening,
        closing(Registry(where.registry_url)) as registry,
    ):
        if settings.registry.register_schemas:
            registry.register_all()
        if settings.kafka.create_topics:
            ensure_topics(kafka, TOPICS)
        needed = {kafka.topic_prefix + name: what for name, what in OF_EDGE.operations().items()}
        check_topics(kafka, needed)
        app = create_app(options, kafka, registry, kinds)
        if siblings is not None:  # the parent says where it is
            run(app, listening)
            return 0
        url = url_of(listening)
        with address_left(edge_file(settings), url):
            run(app, listening, on_listening=lambda: console.note(f"edge at {url}/console"))
    return 0


@contextmanager
def address_left(file: Path, url: str) -> Iterator[None]:
    """Leave the address where commands of the same folder look for it; take it away in the end."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}.tmp")
    mine = orjson.dumps({"url": url, "pid": os.getpid()})
    draft.write_bytes(mine)
    draft.replace(file)  # at once: nobody reads half of it
    try:
        yield
    finally:
        # Another edge may have been started from this folder meanwhile: its address stays.
        if file.exists() and file.read_bytes() == mine:
            file.unlink()
