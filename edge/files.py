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
    connections off, which for a browser behind a proxy is final.

    Raises:
        FilesRefused: there are none left for clients.
    """
    files = files_max()
    connections = files - OTHER_FILES
    if connections < 1:
        raise FilesRefused(files, OTHER_FILES)
    if connections >= options.connections_max:
        return options
    log.warning(
        "fewer_connections",
        connections_max=connections,
        asked=options.connections_max,
        files=files,
        remedy=f"raise the hard limit of open files to {options.connections_max + OTHER_FILES} or more "
        "(ulimit -Hn, LimitNOFILE=, a container's ulimits), or lower SLUICEGATE_EDGE__CONNECTIONS_MAX",
    )
    return replace(options, connections_max=connections)


def _finite(limit: int) -> int:
    return _FILES_MAX if limit == resource.RLIM_INFINITY else limit
