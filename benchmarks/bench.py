"""What all works of one call share: the stack that they run on, their folder, and what was asked for."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from connectors.kafka.options import KafkaOptions
from connectors.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.asked import Asked
    from benchmarks.race import Race
    from ops.settings import Settings
    from ops.stack.addresses import Addresses


@dataclass(frozen=True)
class Bench:
    """One call of ``make bench-engine``."""

    where: Addresses
    settings: Settings
    asked: Asked
    states: list[Race] = field(default_factory=list)
    """The last races of the work ``state``: what ``restore`` brings back."""

    @property
    def folder(self) -> Path:
        """Where contenders keep what they have on the disk."""
        return self.settings.data_dir / "contenders"

    def registry(self) -> Registry:
        """Return a client of the registry."""
        return Registry(self.where.registry_url)

    def kafka(self) -> KafkaOptions:
        """Return how to reach Kafka, each time with topics and groups that nobody else has."""
        return KafkaOptions(self.where.kafka, f"bench{time.time_ns()}.")

    def runs(self) -> str:
        """Say how a figure came about."""
        return "one run" if self.asked.runs == 1 else f"median of {self.asked.runs} runs"


class NotHad(RuntimeError):
    """The benchmark itself needs what is not on this machine; its text says what, and the remedy."""


def say(stage: str) -> None:
    """Tell on standard error what is being done; figures alone go to standard output."""
    print(f"bench: {stage}", file=sys.stderr, flush=True)
