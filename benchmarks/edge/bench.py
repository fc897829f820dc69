"""What all works of one call share: the stack that they run on, their folder, and what was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from connectors.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.edge.asked import Asked
    from ops.settings import Settings
    from ops.stack.addresses import Addresses


@dataclass(frozen=True)
class EdgeBench:
    """One call of ``make bench-edge``."""

    where: Addresses
    settings: Settings
    asked: Asked

    @property
    def folder(self) -> Path:
        """Where servers keep their settings and logs."""
        return self.settings.data_dir / "servers"

    def registry(self) -> Registry:
        """Return a client of the registry."""
        return Registry(self.where.registry_url)
