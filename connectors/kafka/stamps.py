"""Brokers' stamps of what is appended: what time it is for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, KafkaException

from connectors.kafka.access import refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka import KafkaError

    from connectors.kafka.options import KafkaOptions

    Took = Callable[[int, int], None]
    """Called with a broker's stamp, us since 1970, and the latency, us, of a record just acknowledged."""

_TRANSACTION_MS: Final = 10_000
_TRIES: Final = 2  # what the first one takes is to connect


def tell_stamp(message: Any, took: Took) -> None:
    """Tell of the stamp of a record that was just acknowledged, if a broker made it."""
    kind, stamp_ms = message.timestamp()
    latency_s = message.latency()
    if kind == TIMESTAMP_LOG_APPEND_TIME and latency_s is not None and latency_s >= 0:
        took(stamp_ms * 1_000, round(latency_s * 1e6))


def ask_stamp(kafka: KafkaOptions, topic: str, transactional_id: str, took: Took, timeout_s: float) -> None:
    """Append to a topic what nobody sees, as its transaction is aborted, and tell when a broker took it.

    Raises:
        KafkaUnavailable, NotAuthorized: nothing was told.
    """
    producer = kafka.clients.producer(
        kafka.client_config()
        | {"transactional.id": transactional_id, "transaction.timeout.ms": _TRANSACTION_MS, "linger.ms": 0}
    )

    def delivered(error: KafkaError | None, message: Any) -> None:
        if error is None:
            tell_stamp(message, took)

    try:
        producer.init_transactions(timeout_s)
        producer.begin_transaction()
        for _ in range(_TRIES):
            producer.produce(topic, b"", b"", 0, delivered)
            producer.flush(timeout_s)
        producer.abort_transaction(timeout_s)
    except KafkaException as error:
        raise refusal(kafka, f"Write transactional id {transactional_id}", error.args[0]) from error
