"""What one fetch gave: records by partition, and what is none but tells of an error."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, Message

from connectors.kafka.access import REFUSALS
from connectors.kafka.chunk import SourcePartition
from connectors.kafka.errors import ConsumerFailed, ConsumerFenced, IdentityHeld, NotAuthorized

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connectors.kafka.errors import KafkaFailure


def by_partition(messages: Sequence[Message]) -> dict[SourcePartition, list[Message]]:
    """Return the messages of each partition, in offset order."""
    # Up to a million pass here a second: the getters are called by C, without a line of ours for each.
    found: dict[SourcePartition, list[Message]] = {}
    for topic, of_topic in groupby(messages, Message.topic):
        for partition, run in groupby(of_topic, Message.partition):
            found.setdefault(SourcePartition(topic, partition), []).extend(run)
    return found


def records_of(fetched: list[Message], on_error: Callable[[KafkaError, str | None], None]) -> list[Message]:
    """Return those that are records; ``on_error`` is told of the others, with their topic."""
    if not any(map(Message.error, fetched)):
        return fetched
    for message in fetched:
        if (error := message.error()) is not None:
            on_error(error, message.topic())
    return [message for message in fetched if message.error() is None]


def failure_of(
    error: KafkaError, topic: str | None, *, group: str, instance_id: str, principal: str
) -> KafkaFailure | None:
    """Return why the consumer cannot go on after an error, None if it can."""
    if error.code() in REFUSALS:
        return NotAuthorized(principal, f"Read topic {topic}" if topic else f"Read group {group}")
    if "fenced" in error.str().lower():  # as code _FATAL or FENCED_INSTANCE_ID, by version
        return ConsumerFenced(group, instance_id)
    if "still used by another member" in error.str():  # UNRELEASED_INSTANCE_ID, as code _FATAL
        return IdentityHeld(group, instance_id)
    if error.fatal() or error.code() in (
        KafkaError._FATAL,  # noqa: SLF001
        KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError.INVALID_SESSION_TIMEOUT,
        KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    ):
        return ConsumerFailed(group, error.str())
    return None
