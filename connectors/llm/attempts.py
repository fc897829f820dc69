"""Reads one operation's attempts from the ledger, for who wants to know what became of it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from connectors.kafka.committed import CommittedReader
from connectors.kafka.errors import NoSuchTopic
from connectors.llm.ledger import Attempt, attempt_of
from schemas.topics import LLM_ATTEMPTS, partition_of

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions
    from schemas.wire import WireCodec


def attempts_of(kafka: KafkaOptions, codec: WireCodec, tenant: str, stream_id: str) -> list[Attempt]:
    """Return the attempts of a stream in their order, as the ledger has them at this moment.

    Reads the partition that has them from its beginning: what is another's is passed over by its key.

    Raises:
        NoSuchTopic: nobody has made the ledger.
        KafkaUnavailable, NotAuthorized: it cannot be read.
        WireError: a row of the stream cannot be read.
    """
    topic = LLM_ATTEMPTS.named(kafka.topic_prefix)
    operation = f"{tenant}/{stream_id}"
    with closing(CommittedReader(kafka, topic)) as reader:
        partitions = reader.partitions()
        if not partitions:
            raise NoSuchTopic(topic)
        partition = partition_of(operation.encode(), len(partitions))
        low, high = reader.bounds(partition)
        found: dict[int, Attempt] = {}
        for message in reader.read({partition: low}, {partition: high}) if low < high else ():
            key, value = message.key() or b"", message.value()
            if value is not None and key.rpartition(b"/")[0] == operation.encode():
                row = attempt_of(codec.decode(value, LLM_ATTEMPTS.subject))
                found[row.attempt] = row
    return [found[number] for number in sorted(found)]
