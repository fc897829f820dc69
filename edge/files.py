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
