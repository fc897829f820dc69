"""Open files of this process: each connection takes one, beside what the edge has open for itself."""

from __future__ import annotations

import contextlib
import resource
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

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
_FILES_MAX: Final = 1_048_576
"""Linux gives one process no more (``fs.nr_open``), whatever its hard limit says."""


def files_max() -> int:
    """Raise this process's limit of open files to the most that it may have, and return that.

    The usual soft limit, 1,024, is for programs that wait with ``select``; Go's runtime raises its own, too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(_finite(hard), _FILES_MAX)
    if _finite(soft) < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a lower bound that the limit does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return min(_finite(soft), _FILES_MAX)


def within_files(options: EdgeOptions) -> EdgeOptions:
    """Have as many files as may be had, and no more connections than there are files for.

    Beyond its bound an edge answers that a client is to come back; beyond its files the kernel can only cut
    connections off, which for a browser behind a proxy is final. With gRPC there are files for as many
    connections that stream of each: gRPC takes its own by itself, and cannot be told to wait.

    Raises:
        FilesRefused: there are none left for clients.
    """
    files, has_grpc = files_max(), options.grpc_port >= 0
    room = files - OTHER_FILES
    grpc_other = min(_GRPC_OTHER_MAX, max(room // 10, 1)) if has_grpc else 0
    connections = (room - grpc_other) // 2 if has_grpc else room
    if connections < 1:
        raise FilesRefused(files, OTHER_FILES)
    if connections < options.connections_max:
        asked, twice = options.connections_max, 2 if has_grpc else 1
        needed = twice * asked + OTHER_FILES + (_GRPC_OTHER_MAX if has_grpc else 0)
        log.warning(
            "fewer_connections",
            connections_max=connections,
            asked=asked,
            files=files,
            remedy=f"raise the hard limit of open files to {needed} or more (ulimit -Hn, LimitNOFILE=, a "
            "container's ulimits), or lower SLUICEGATE_EDGE__CONNECTIONS_MAX"
            + (", or turn gRPC off (SLUICEGATE_EDGE__GRPC_PORT=-1)" if has_grpc else ""),
        )
        options = replace(options, connections_max=connections)
    if not has_grpc:
        return options
    return replace(options, grpc_connections_max=options.connections_max + grpc_other)


def http_connections_max(options: EdgeOptions) -> int:
    """How many connections over HTTP may be open, idle ones too, so that all others find files for theirs."""
    grpc = options.grpc_connections_max if options.grpc_port >= 0 else 0
    return max(files_max() - OTHER_FILES + _REQUESTS - grpc, 1)


def _finite(limit: int) -> int:
    return _FILES_MAX if limit == resource.RLIM_INFINITY else limit
