"""Open files of this process: each connection takes one, beside what the edge has open for itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from connectors.files import files_max
from edge.errors import FilesRefused

if TYPE_CHECKING:
    from edge.options import EdgeOptions

log = structlog.get_logger(__name__)
OTHER_FILES: Final = 500
"""Kept for all but clients that stream: Kafka's brokers, once for each of eight Kafka clients, the registry,
a JWKS, libraries (60 with one broker), and requests that come and go."""
_REQUESTS: Final = 200
"""Of those: connections over HTTP that do not stream."""
_GRPC_OTHER_MAX: Final = 1_000
"""Connections over gRPC beside as many as may stream: those to be told that they are too many, of publishers,
of health checks, idle ones."""
_GRPC_SHARE: Final = 4
"""Where there are not files enough for as many of each, gRPC has so small a part of them."""


def within_files(options: EdgeOptions) -> EdgeOptions:
    """Have as many files as may be had, and no more connections than there are files for.

    Beyond its bound an edge answers that a client is to come back; beyond its files the kernel can only cut
    connections off, which for a browser behind a proxy is final. gRPC takes its own by itself, and cannot be
    told to wait: it has files for as many as may stream, or a quarter of them where they are too few.

    Raises:
        FilesRefused: there are none left for clients.
    """
    files, has_grpc = files_max(), options.grpc_port >= 0
    room, asked = files - OTHER_FILES, options.connections_max
    grpc = min(asked + _GRPC_OTHER_MAX, max(room // _GRPC_SHARE, room - asked)) if has_grpc else 0
    if room - grpc < 1:
        raise FilesRefused(files, OTHER_FILES)
    connections = min(asked, room - grpc)
    if connections < asked:
        log.warning(
            "fewer_connections",
            connections_max=connections,
            asked=asked,
            files=files,
            remedy=f"raise the hard limit of open files to {_files_for(asked, has_grpc=has_grpc)} or more "
            "(ulimit -Hn, LimitNOFILE=, a container's ulimits), or lower SLUICEGATE_EDGE__CONNECTIONS_MAX"
            + (", or turn gRPC off (SLUICEGATE_EDGE__GRPC_PORT=-1)" if has_grpc else ""),
        )
    if has_grpc:
        options = replace(options, grpc_connections_max=max(grpc, 1))
    return replace(options, connections_max=connections)


def _files_for(connections: int, *, has_grpc: bool) -> int:
    """How many files so many connections take, if they all are of HTTP; gRPC has a part of its own."""
    share = _GRPC_SHARE - 1
    room = -(-connections * _GRPC_SHARE // share) if has_grpc else connections
    return room + OTHER_FILES


def http_connections_max(options: EdgeOptions) -> int:
    """How many connections over HTTP may be open, idle ones too, so that all others find files for theirs."""
    grpc = options.grpc_connections_max if options.grpc_port >= 0 else 0
    return max(files_max() - OTHER_FILES + _REQUESTS - grpc, 1)
