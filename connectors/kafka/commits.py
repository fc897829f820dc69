"""What a failed commit says of its outcome."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError

from connectors.kafka.access import REFUSALS

_INCONSISTENT: Final = KafkaError._INCONSISTENT  # noqa: SLF001  # librdkafka's name: a record was not taken


def was_not_asked(error: KafkaError) -> bool:
    """Say whether nothing takes place, as the broker was not asked to commit, or refused a stranger.

    That the transaction must be aborted does not say so: librdkafka asks for that as well after an answer
    that it does not know ("EndTxn commit failed: Unknown broker error"), and the broker may have committed.
    """
    return error.txn_requires_abort() and (error.code() == _INCONSISTENT or error.code() in REFUSALS)
