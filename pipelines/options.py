"""What a worker's process is told: by ``ops`` from the settings, or by a user's own program."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from connectors.kafka.ports import HANDOVER_BYTES_MAX, QUEUE_BYTES_MAX, QUEUE_RECORDS_MAX
from schemas.topics import DAY_MS, MIB
from state.budget import StateOptions
from state.checkpoint import UNIT_BYTES_MAX, UNIT_RECORDS_MAX

if TYPE_CHECKING:
    from pathlib import Path

    from connectors.kafka.membership import Assignment
    from connectors.kafka.options import KafkaOptions
    from pipelines.state_page import Queries

EXACTLY_ONCE: Final = ("ingest", "aggregate", "account")
"""Roles that CONTRACT.md promises: seq without a hole or a double, and windows that add up. The archive has
its own fence."""
_APPEND_MB_PER_S: Final = 40
"""What our broker acknowledged of a batch agent's changelog."""


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
    unit_records_max: int = UNIT_RECORDS_MAX
    unit_mb_max: int = UNIT_BYTES_MAX // MIB
    """Of what one unit of work appends: see ``bound_problems``."""
    handover_mb_max: int = HANDOVER_BYTES_MAX // MIB
    """Handed over to a role's agents and not yet handled; as much is fetched ahead of it."""
    attempts_max: int = 3
    """Of an event that fails, before its agent's policy; an agent may say another number of itself."""
    retry_backoff_ms: int = 100
    retry_backoff_ms_max: int = 10_000
    """The first pause before what failed is tried again, and the longest: each is twice the one before."""
    state: StateOptions = field(default_factory=StateOptions)
    web_host: str = "127.0.0.1"
    web_port: int = 0
    """Of this process; 0 = none."""
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


class Bounds(Protocol):
    """Those of a worker that must fit together; its settings and its options have them."""

    @property
    def commit_interval_ms(self) -> int:
        """Longest age of a unit of work that is open, milliseconds, as are those that follow."""

    @property
    def stall_ms_max(self) -> int:
        """Longest that a rebalance waits for agents."""

    @property
    def transaction_timeout_ms(self) -> int:
        """After which the broker aborts a transaction."""

    @property
    def session_timeout_ms(self) -> int:
        """After which a silent member is taken for dead."""

    @property
    def max_poll_interval_ms(self) -> int:
        """After which a member that does not poll is."""

    @property
    def retry_backoff_ms(self) -> int:
        """The first pause after a failure."""

    @property
    def retry_backoff_ms_max(self) -> int:
        """The longest one."""

    @property
    def unit_records_max(self) -> int:
        """Records, a number, at which a unit of work ends."""

    @property
    def unit_mb_max(self) -> int:
        """And their MB."""


def time_out_problems(given: Bounds, *, at_least_once: bool) -> list[str]:
    """Say under which of these time-outs a unit of work could be lost, or a member be taken for dead.

    A rebalance waits in the poll thread until the agents are done (``stall_ms_max``) and their unit has
    committed (the transaction's time-out). If that outlasts the poll interval, the group evicts the member in
    the middle. A transaction is refused then; without one, its changelog values are appended behind those of
    the partition's new owner, and a restore would take them for the latest. So a role that is at least once
    needs room for the worst: acknowledgements and the answer to a commit, each awaited for
    ``transaction_timeout_ms``, of the unit that commits as the rebalance begins and of the one after it.
    """
    problems = []
    needed = given.commit_interval_ms + given.stall_ms_max
    if given.transaction_timeout_ms <= needed:
        problems.append(
            f"transaction_timeout_ms={given.transaction_timeout_ms} must be longer than commit_interval_ms + "
            f"stall_ms_max = {needed}: the broker would abort a unit of work that is still being made; raise "
            "it, or lower the other two"
        )
    if given.session_timeout_ms > given.max_poll_interval_ms:
        problems.append(
            f"session_timeout_ms={given.session_timeout_ms} must not be longer than "
            f"max_poll_interval_ms={given.max_poll_interval_ms}"
        )
    times = 4 if at_least_once else 1
    needed = given.stall_ms_max + times * given.transaction_timeout_ms
    if given.max_poll_interval_ms <= needed:
        said = f"{times} * transaction_timeout_ms" if at_least_once else "transaction_timeout_ms"
        problems.append(
            f"max_poll_interval_ms={given.max_poll_interval_ms} must be longer than stall_ms_max + {said} = "
            f"{needed}: a rebalance may wait so long for the last unit of work, and the group would evict "
            "the member meanwhile; raise it, or lower the others"
        )
    return problems


def bound_problems(given: Bounds) -> list[str]:
    """Say which bounds of a unit of work, and of retries, do not fit what they are bounded by themselves.

    A unit is full once it has as much as its bounds, and each agent may still be at work on a chunk, so it
    gets larger: half of the producer's queue is for that. It is appended within one transaction, from its
    first record to the commit; one that never can be would be aborted and made again without an end.
    """
    problems = [
        f"{name}={value} must be at most {bound}, half of what the producer queues: a unit of work gets "
        "larger by the chunks that are in hand when it is full, and must find room; lower it"
        for name, value, bound in (
            ("unit_records_max", given.unit_records_max, QUEUE_RECORDS_MAX // 2),
            ("unit_mb_max", given.unit_mb_max, QUEUE_BYTES_MAX // MIB // 2),
        )
        if value > bound
    ]
    needed = given.unit_mb_max * 1_000 // _APPEND_MB_PER_S
    if needed > given.transaction_timeout_ms:
        problems.append(
            f"unit_mb_max={given.unit_mb_max} takes {needed} ms to append at {_APPEND_MB_PER_S} MB/s, and "
            f"transaction_timeout_ms={given.transaction_timeout_ms} is shorter: the broker would abort each "
            "full unit of work; lower the one, or raise the other"
        )
    if given.retry_backoff_ms > given.retry_backoff_ms_max:
        problems.append(
            f"retry_backoff_ms={given.retry_backoff_ms} must not be longer than "
            f"retry_backoff_ms_max={given.retry_backoff_ms_max}: lower the one, or raise the other"
        )
    return problems
