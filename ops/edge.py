"""An edge's process: its options out of the settings, its address for others to find, then the server."""

from __future__ import annotations

import os
import signal
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import orjson
import psutil

from connectors.kafka.needs import have_topics
from connectors.registry import Registry
from edge.access.options import AccessOptions
from edge.app import create_app
from edge.options import EdgeOptions
from edge.server import address_of, bind, hold_for_grpc, run, url_of
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
    processes: int = 1,
) -> EdgeOptions:
    """What an edge is told; the command line's words go before the settings.

    ``processes``: so many share the address, and what a tenant may have of it.
    """
    edge = settings.edge
    return EdgeOptions(
        host=edge.host if host is None else host,
        port=edge.port if port is None else port,
        allow_network=edge.allow_network,
        allowed_hosts=edge.allowed_hosts,
        trusted_proxies=edge.trusted_proxies,
        drain_ms=edge.drain_ms,
        access=AccessOptions(**settings.access.model_dump()),
        cors_origins=edge.cors_origins,
        connections_max=edge.connections_max,
        retry_ms=edge.retry_ms,
        tenant_connections_max=_share(edge.tenant_connections_max, processes),
        tenant_events_per_s_max=_share(edge.tenant_events_per_s_max, processes),
        header_bytes_max=edge.header_bytes_max,
        headers_max=edge.headers_max,
        tcp_user_timeout_ms=edge.tcp_user_timeout_ms,
        grpc_connection_idle_ms=edge.grpc_connection_idle_ms,
        process=process,
        siblings=siblings,
    )


def _share(bound: int, processes: int) -> int:
    """One process's part of a bound; 0 is none, and so is never a part of one."""
    return max(bound // processes, 1) if bound else 0


@contextmanager
def grpc_port_held(settings: Settings, asked: int | None, options: EdgeOptions, http: int) -> Iterator[int]:
    """Keep the port that gRPC is to have beside HTTP's, and give it; -1 = none. Raises PortInUse."""
    port = settings.edge.grpc_port if asked is None else asked
    if port == -1:
        yield port
    elif port is not None and options.siblings is not None:
        yield port  # the parent keeps it
    else:
        with closing(hold_for_grpc(options.host, port, beside=http)) as held:
            yield held.getsockname()[1]


def run_edge(
    settings: Settings,
    host: str | None,
    port: int | None,
    grpc_port: int | None,
    *,
    process: int = 0,
    siblings: Path | None = None,
    processes: int = 1,
) -> int:
    """Serve until a signal; 0 if it was stopped on purpose.

    ``siblings``: it is one of several ``processes``, whose parent says where and how many they are.

    Raises:
        NetworkRefused, PortInUse: the address.
        FilesRefused: the process may open no file for a client.
        KeysRefused, OriginsRefused: whom it is to let in.
        NoStack: nothing says where Kafka and the registry are.
        RegistryUnavailable, KafkaUnavailable: they do not answer at the start.
        NotAuthorized: an ACL is missing.
        TopicsAbsent: a topic that it reads or writes is, and it may not make any.
        TopicMismatch: a topic that exists cannot serve.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until it serves, and says what that is for
    options = edge_options(
        settings, host, port, process=process, siblings=siblings, processes=processes
    ).checked()
    kinds = extension_of(settings).all_kinds()
    where = addresses(settings)
    kafka = kafka_options(settings, where.kafka)
    configure_logs()
    # The port first: it is the mistake that is made most, and nothing needs to be asked to find it.
    with (
        closing(bind(options.host, options.port, shared=siblings is not None)) as listening,
        grpc_port_held(settings, grpc_port, options, listening.getsockname()[1]) as for_grpc,
        closing(Registry(where.registry_url)) as registry,
    ):
        if settings.registry.register_schemas:
            registry.register_all()
        needed = {kafka.topic_prefix + name: what for name, what in OF_EDGE.operations().items()}
        have_topics(kafka, TOPICS, needed, create=settings.kafka.create_topics)
        app = create_app(replace(options, grpc_port=for_grpc), kafka, registry, kinds)
        if siblings is not None:  # the parent says where it is
            run(app, listening)
            return 0
        where_it_is = Listening(url_of(listening), options.host, for_grpc)
        with address_left(edge_file(settings), where_it_is):
            run(app, listening, on_listening=lambda: console.note(f"edge at {where_it_is}"))
    return 0


class Listening:
    """Where an edge listens, for people and for commands."""

    def __init__(self, url: str, host: str, grpc_port: int) -> None:
        self.url = url
        self.grpc = address_of(host, grpc_port) if grpc_port >= 0 else ""
        """Host and port of its gRPC; empty if it has none."""

    def __str__(self) -> str:
        return f"{self.url}/console" + (f", gRPC at {self.grpc}" if self.grpc else "")


@contextmanager
def address_left(file: Path, where: Listening) -> Iterator[None]:
    """Leave the address where commands of the same folder look for it; take it away in the end.

    That of another edge which runs from this folder is hidden meanwhile, and put back.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    before = file.read_bytes() if file.exists() else b""
    mine = orjson.dumps({"url": where.url, "grpc": where.grpc, "pid": os.getpid()})
    _put(file, mine)
    try:
        yield
    finally:
        # Yet another edge may have been started from this folder meanwhile: its address stays.
        if file.exists() and file.read_bytes() == mine:
            if _is_of_a_living_one(before):
                _put(file, before)
            else:
                file.unlink()


def _put(file: Path, content: bytes) -> None:
    draft = file.with_suffix(f".{os.getpid()}.tmp")
    draft.write_bytes(content)
    draft.replace(file)  # at once: nobody reads half of it


def _is_of_a_living_one(left: bytes) -> bool:
    try:
        pid = int(orjson.loads(left)["pid"])
    except (ValueError, KeyError, TypeError):
        return False
    return pid != os.getpid() and psutil.pid_exists(pid)  # in a container each edge has the pid of the last
