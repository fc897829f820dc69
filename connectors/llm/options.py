"""How an LLM worker is set; made of the settings, passed down frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from connectors.llm.prices import Prices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.kafka.options import KafkaOptions
    from connectors.llm.calls import Target
    from connectors.llm.judges import Judge


@dataclass(frozen=True, slots=True)
class FlushOptions:
    """When deltas go out as events: the first content at once, then by time or size."""

    flush_ms: int = 40
    flush_bytes: int = 1_024


@dataclass(frozen=True, slots=True)
class LlmOptions:
    """One worker's options."""

    kafka: KafkaOptions
    registry_url: str
    identity: str = ""
    """Names the worker in the ledger, and makes its transactional id; stable over restarts of a slot."""
    providers: Mapping[str, Target] = field(default_factory=dict)
    prices: Prices = field(default_factory=Prices)
    flush: FlushOptions = field(default_factory=FlushOptions)
    calls_max: int = 256
    """Operations in flight; beyond them partitions are paused."""
    queue_ms_max: int = 30_000
    """A request that has not been begun so long after it was asked for ends as ``timed_out``."""
    session_timeout_ms: int = 10_000
    """After so long without a sign of life others take over, and what waits must not be too old by then."""
    transaction_timeout_ms: int = 15_000
    drain_ms: int = 20_000
    """Calls in flight may end within it when the worker stops; the next owner begins anew what is left."""
    judges: Mapping[str, Judge] = field(default_factory=dict)
    """Users' gates by ``module:name``: what routes may name."""
    web_host: str = "127.0.0.1"
    web_port: int = 0
    """Metrics and health; 0 = none."""
