"""The first record of a changelog: a changelog that does not begin with it has lost records.

A group commits offsets also where its agent kept no state yet, so an empty changelog alone says nothing.
With the mark, written before the first unit of work, it does: a changelog that was deleted, made anew or cut
has no mark at its beginning. Compaction never takes it, as each has a key of its own.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaException

from connectors.kafka.errors import KafkaUnavailable

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions

_KEY: Final = b"\x00sluicegate.changelog.begins\x00"
_VALUE: Final = b"1"  # not a tombstone
_WRITE_S: Final = 10.0


def is_birth(key: bytes) -> bool:
    """Tell whether a changelog record is the mark, and no state."""
    return key.startswith(_KEY)


def mark_birth(kafka: KafkaOptions, topic: str, partition: int) -> None:
    """Begin a changelog partition; two that are written at once do no harm.

    Raises:
        KafkaUnavailable: it was not written.
    """
    config = kafka.client_config() | {"acks": "all", "linger.ms": 0, "message.timeout.ms": 8_000}
    producer = kafka.clients.producer(config)
    failed: list[str] = []

    def delivered(error: object, _message: object) -> None:
        if error is not None:
            failed.append(str(error))

    try:
        producer.produce(
            topic, _VALUE, _KEY + secrets.token_bytes(8), partition=partition, on_delivery=delivered
        )
    except KafkaException as error:
        failed.append(str(error))
    if producer.flush(_WRITE_S):
        failed.append("no answer in time")
    if failed:
        raise KafkaUnavailable(kafka.bootstrap_servers, f"{topic}[{partition}]: {failed[0]}")
