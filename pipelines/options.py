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
    adopt: bool = False
    """Take this code for the one that wrote the state, where nothing on record says which did."""
    content_ms: int = 30 * DAY_MS
    """How long the archive keeps what was sent to and came from language models."""
    connections_ms: int = 30 * DAY_MS
    """How long the archive keeps to whom streams were delivered."""
    create_topics: bool = True
    register_schemas: bool = True


def time_out_problems(
    *,
    commit_interval_ms: int,
    stall_ms_max: int,
    transaction_timeout_ms: int,
    session_timeout_ms: int,
    max_poll_interval_ms: int,
    at_least_once: bool,
) -> list[str]:
    """Say under which of these time-outs a unit of work could be lost, or a member be taken for dead.

    A rebalance waits in the poll thread until the agents are done (``stall_ms_max``) and their unit has
    committed (the transaction's time-out). If that outlasts the poll interval, the group evicts the member in
    the middle. A transaction is refused then; without one, its changelog values are appended behind those of
    the partition's new owner, and a restore would take them for the latest. So a role that is at least once
    needs room for the worst: acknowledgements and the answer to a commit, each awaited for
    ``transaction_timeout_ms``, of the unit that commits as the rebalance begins and of the one after it.
    """
    problems = []
    needed = commit_interval_ms + stall_ms_max
    if transaction_timeout_ms <= needed:
        problems.append(
            f"transaction_timeout_ms={transaction_timeout_ms} must be longer than commit_interval_ms + "
            f"stall_ms_max = {needed}: the broker would abort a unit of work that is still being made; raise "
            "it, or lower the other two"
        )
    if session_timeout_ms > max_poll_interval_ms:
        problems.append(
            f"session_timeout_ms={session_timeout_ms} must not be longer than "
            f"max_poll_interval_ms={max_poll_interval_ms}"
        )
    times = 4 if at_least_once else 1
    needed = stall_ms_max + times * transaction_timeout_ms
    if max_poll_interval_ms <= needed:
        said = f"{times} * transaction_timeout_ms" if at_least_once else "transaction_timeout_ms"
        problems.append(
            f"max_poll_interval_ms={max_poll_interval_ms} must be longer than stall_ms_max + {said} = "
            f"{needed}: a rebalance may wait so long for the last unit of work, and the group would evict "
            "the member meanwhile; raise it, or lower the others"
        )
    return problems
