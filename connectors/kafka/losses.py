"""Records that retention took before a group handled them: which, and its position set behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import KafkaException, TopicPartition

from connectors.kafka.access import refusal
from connectors.kafka.lag import committed_offsets, committed_positions, first_offsets
from connectors.kafka.positions import metadata_of
from connectors.kafka.slot import ProducerSlot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.positions import Committed

_TIMEOUT_MS = 10_000


class Loss(NamedTuple):
    """Offsets of one partition that a group has not handled, and that its log does not hold any more."""

    topic: str
    """As it stands in Kafka."""
    partition: int
    first: int
    """Where the group stands."""
    last: int

    @property
    def offsets(self) -> int:
        """How many offsets; markers of transactions are among them, so there were at most as many records."""
        return self.last - self.first + 1


def losses_of(kafka: KafkaOptions, group: str) -> list[Loss]:
    """Return what a group (its full name) has lost, by topic and partition; blocks.

    Raises:
        KafkaUnavailable: no answer.
        NotAuthorized: an ACL is missing.
    """
    committed = committed_offsets(kafka, group)
    try:
        first = first_offsets(kafka, sorted(committed))
    except KafkaException as error:
        raise refusal(kafka, f"Describe the topics of group {group}", error.args[0]) from error
    return [
        Loss(*at, offset, first[at] - 1)
        for at, offset in sorted(committed.items())
        if at in first and offset < first[at]
    ]


def accept(
    kafka: KafkaOptions,
    group: str,
    losses: Sequence[Loss],
    records: Sequence[tuple[str, bytes, bytes | None, int | None]],
    transactional_id: str,
) -> None:
    """Have the group stand behind what it lost, and append ``records`` that say so, all in one transaction.

    The group must have no member: one would not hear of it.

    Raises:
        AppendFailed: Kafka did not take it, or nobody knows; it may be done again.
    """
    consumer = kafka.clients.consumer(
        kafka.client_config() | {"group.id": group, "enable.auto.commit": False}
    )
    slot = ProducerSlot(kafka, transactional_id, _TIMEOUT_MS)
    try:
        stands = committed_positions(kafka, group)
        moved = [_behind(loss, stands[loss.topic, loss.partition]) for loss in losses]
        slot.append(records, offsets=(moved, consumer.consumer_group_metadata()))
    finally:
        slot.close()
        consumer.close()


def _behind(loss: Loss, stands: Committed) -> TopicPartition:
    """Return the position behind a loss; what was handed back before is not handed back again."""
    metadata = "" if stands.unit is None else metadata_of(stands.unit, "", stands.handback)
    return TopicPartition(loss.topic, loss.partition, loss.last + 1, metadata=metadata)
