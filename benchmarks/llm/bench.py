"""What all works of one call share: the stack that they run on, their folder, and what was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.edge.asked import Asked as EdgeAsked
from benchmarks.edge.bench import EdgeBench

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.llm.asked import Asked
    from ops.settings import Settings
    from ops.stack.addresses import Addresses


@dataclass(frozen=True)
class LlmBench:
    """One call of ``make bench-llm``."""

    where: Addresses
    settings: Settings
    asked: Asked

    @property
    def folder(self) -> Path:
        """Where servers keep their settings and logs, and loads their files."""
        return self.settings.data_dir / "servers"

    def of_edge(self) -> EdgeBench:
        """Give what servers are made with."""
        return EdgeBench(self.where, self.settings, EdgeAsked())
