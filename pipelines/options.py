"""What a worker's process is told: by ``ops`` from the settings, or by a user's own program."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from schemas.topics import DAY_MS
from state.budget import StateOptions

if TYPE_CHECKING:
    from pathlib import Path

    from connectors.kafka.consumer import Assignment
    from connectors.kafka.options import KafkaOptions
    from pipelines.state_page import Queries


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Everything a worker process is told; times in milliseconds."""

    kafka: KafkaOptions
    registry_url: str
    postgres_dsn: str | None = field(repr=False)
    state_dir: Path
    commit_interval_ms: int = 100
    transaction_timeout_ms: int = 10_000
    assignment: Assignment = "range"
    session_timeout_ms: int = 6_000
    max_poll_interval_ms: int = 60_000
    chunk_events_max: int = 2_000
    stall_ms_max: int = 5_000
    state: StateOptions = field(default_factory=StateOptions)
    web_host: str = "127.0.0.1"
    web_port: int = 0
    at_least_once: tuple[str, ...] = ()
    """Roles whose units of work are no transactions."""
    web_advertised_host: str = ""
    """Where other workers send readers of state to; empty = ``web_host``, or this machine's name."""
    state_queries: Queries = "loopback"
    identity: str = ""
    """Names the slots of this worker; empty = the state folder's own identity (``pipelines/slots.py``)."""
    migrate: str = ""
    """Name of the migration of state to apply before the role runs; empty = none."""
    abandon_migration: bool = False
    """Give up one that is under way: the state as it was before it holds."""
    content_ms: int = 30 * DAY_MS
    """How long the archive keeps what was sent to and came from language models."""
    connections_ms: int = 30 * DAY_MS
    """How long the archive keeps to whom streams were delivered."""
    create_topics: bool = True
    register_schemas: bool = True
