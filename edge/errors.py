"""What an edge refuses or cannot do.

EdgeError
├── NetworkRefused        an address that strangers reach, and no keys are configured
├── PortInUse             something else listens there
├── KindsRefused          a kind's policies cannot be kept
├── RequestError          the request is wrong (status, title, field, index)
└── HistoryUnavailable    Kafka cannot be read right now
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.errors import SluicegateError

if TYPE_CHECKING:
    from collections.abc import Mapping


class EdgeError(SluicegateError):
    """Base of the edge's errors."""


class NetworkRefused(EdgeError):
    """The edge has no authorisation yet, so it serves this machine only."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"the edge does not bind {host}: anybody who reaches it could read and write every stream",
            remedy="Bind 127.0.0.1, and put a proxy that checks who asks in front of it; or set "
            "SLUICEGATE_EDGE__ALLOW_NETWORK=true where only trusted programs reach it (a container whose "
            "port is published on loopback).",
        )


class PortInUse(EdgeError):
    """The port is taken."""

    def __init__(self, host: str, port: int, problem: str, option: str = "port") -> None:
        """``option`` is the setting that says the port."""
        switch, variable = f"--{option.replace('_', '-')}", f"SLUICEGATE_EDGE__{option.upper()}"
        super().__init__(
            f"the edge cannot listen on {host}:{port}: {problem}",
            remedy=f"Stop what listens there, or choose another ({switch}, {variable}; 0 = any).",
        )


class KindsRefused(EdgeError):
    """A kind whose policies are not all there, contradict each other, or ask too much of its topics."""

    remedy = "Correct the policies that it names (schemas/kinds.py)."


class RequestError(EdgeError):
    """A request that is answered with a problem document; nothing of it was done."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        remedy: str = "",
        extra: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail, remedy=remedy)
        self.status = status
        self.title = title
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})


class HistoryUnavailable(EdgeError):
    """Events that are no longer in memory cannot be read from Kafka now; the client waits meanwhile."""

    remedy = "Check that Kafka runs (`sluicegate status`); clients go on by themselves once it answers."
