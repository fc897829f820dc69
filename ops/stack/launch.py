"""What a service of the local stack is to the code that starts it."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ops.stack.parts import Part

# Nothing of the user's environment reaches a service: their JAVA_TOOL_OPTIONS or PGDATA must not change it.
CLEAN_ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Launch:
    """How a service's process is started."""

    command: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=lambda: CLEAN_ENVIRONMENT)


class Service(Protocol):
    """One service: prepared, then launched; `probe` asks whether it answers."""

    @property
    def part(self) -> Part:
        """What it is, in the table."""

    @property
    def port(self) -> int:
        """Port on the loopback that clients use."""

    @property
    def address(self) -> str:
        """Where clients find it."""

    def prepare(self) -> None:
        """Write its configuration and, the first time, make its data; raises PartFailed."""

    def launch(self) -> Launch:
        """Say how it is started."""


# SIGTERM asks PostgreSQL to wait until every client is gone; SIGINT rolls their transactions back and stops.
STOP_SIGNAL: Mapping[str, signal.Signals] = {
    "kafka": signal.SIGTERM,
    "registry": signal.SIGTERM,
    "postgres": signal.SIGINT,
    "model": signal.SIGTERM,
}
