"""A commit that librdkafka repeats by itself is followed by a new epoch, also where it says nothing of it."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from confluent_kafka import Producer

from connectors.kafka.clients import Clients
from connectors.kafka.transaction import KafkaTransaction
from schemas.topics import OUTPUT
from state.effects import Append
from tests.faults.kafka_proxy import END_TXN, KafkaProxy

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions

INIT_PRODUCER_ID = 22


def test_a_commit_is_repeated_on_a_line_whose_breaks_are_not_told_of_any_more(
    kafka_options: KafkaOptions, topics
):
    topics(OUTPUT)
    made: list[Producer] = []

    def producer(config: dict[str, Any]) -> Producer:
        made.append(Producer(config))
        return made[-1]

    with KafkaProxy([kafka_options.bootstrap_servers]) as proxy:
        clients = Clients(producer=producer)
        options = replace(kafka_options, bootstrap_servers=proxy.bootstrap, clients=clients)
        transaction = KafkaTransaction(
            options,
            transactional_id=f"{options.topic_prefix}repeats",
            group_metadata=lambda: None,
            committed_unit=lambda _source: None,
            timeout_ms=20_000,
            leaving=threading.Event(),
        )
        # After a break was said twice, librdkafka says nothing of it for half a minute
        for _ in range(3):
            proxy.hold(INIT_PRODUCER_ID, "answer").release(forward=False)
        transaction.open()
        transaction.begin()
        proxy.hold(END_TXN, "answer").release(forward=False)
        unit(transaction)
        assert proxy.requests[END_TXN] == 2, "it was repeated"
        repeated = made[-1]
        transaction.begin()
        assert made[-1] is not repeated
        undisturbed = made[-1]
        unit(transaction)
        transaction.begin()
        assert made[-1] is undisturbed
        transaction.close()


def unit(transaction: KafkaTransaction) -> None:
    """Append a record and commit."""
    transaction.append([Append(OUTPUT, b"key", b"value", 0)])
    transaction.flush()
    transaction.commit()
