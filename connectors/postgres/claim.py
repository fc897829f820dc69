"""What the sink and its caller hand to each other: a partition that is owned, and a batch to store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from connectors.postgres import errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.postgres.errors import SinkError

# A refused row is counted as such: the batch goes on without it.
_ERRORS: Final = tuple(
    error.__name__
    for error in (
        errors.SinkUnavailable, errors.SinkTimeout, errors.OutcomeUnknown, errors.FenceLost,
        errors.WentBack, errors.SinkUnfit,
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write one partition, until somebody claims it after us.

    `next` is the offset of the first record that PostgreSQL does not hold yet: the consumer seeks to it,
    whatever Kafka's committed offset says. A claim ends with the connection that made it (`session`):
    after a failover to a replica that lags, an owner number may be given a second time.
    """

    topic: str
    topic_id: str
    partition: int
    owner: int
    next: int
    session: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that the archive does not store, and why; its dead letter is the caller's."""

    offset: int
    problem: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a partition up to, not including, offset `next`; decoded records of the schema's fields.

    `next` may move on without a row: tombstones and commit markers take offsets too.
    """

    next: int
    streams: Sequence[Mapping[str, object]] = ()
    """`sluicegate.StreamRecord`"""
    usage_windows: Sequence[Mapping[str, object]] = ()
    """`sluicegate.UsageWindow`"""
    llm_attempts: Sequence[Mapping[str, object]] = ()
    """`sluicegate.LlmAttempt`"""
    llm_contents: Sequence[Mapping[str, object]] = ()
    """`sluicegate.LlmAttempt`, with what was sent and what came"""
    llm_windows: Sequence[Mapping[str, object]] = ()
    """`sluicegate.LlmWindow`"""
    llm_tasks: Sequence[Mapping[str, object]] = ()
    """`sluicegate.LlmTask`"""
    connections: Sequence[Mapping[str, object]] = ()
    """`sluicegate.ConnectionEvent`"""
    refused: Sequence[Refusal] = ()
    """Kept with the position: a dead letter whose Kafka transaction failed afterwards can be made again."""
    settled: int = 0
    """Kafka has committed all below this offset: refusals there are not asked for any more, and deleted."""

    def rows(self, table: str) -> Sequence[Mapping[str, object]]:
        """Return the rows of a table."""
        rows: Sequence[Mapping[str, object]] = getattr(self, table)
        return rows


@dataclass(slots=True)
class Counts:
    """What this sink did since it was made; for metrics. Its one thread writes, whoever asks reads."""

    batches: int = 0
    seconds: float = 0.0
    """What these batches took, from BEGIN to COMMIT."""
    rows_given: int = 0
    rows_stored: int = 0
    """Rows that changed the table: the others were older than, or the same as, what it holds."""
    rows_refused: int = 0
    """Rows that PostgreSQL does not take; each becomes a dead letter."""
    characters_replaced: int = 0
    """NUL and lone surrogates, which PostgreSQL's text cannot hold, stored as U+FFFD."""
    connections: int = 0
    errors: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_ERRORS, 0))
    """By name. After a transient one the same batch is tried again."""

    def failed(self, error: SinkError) -> None:
        """Count an error."""
        name = type(error).__name__
        self.errors[name] = self.errors.get(name, 0) + 1
