"""Reads the committed records that a topic holds at this moment, without joining a group."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from connectors.kafka.access import refusal
from connectors.kafka.errors import KafkaUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from confluent_kafka import Message

    from connectors.kafka.errors import KafkaFailure
    from connectors.kafka.options import KafkaOptions

_ANSWER_S_MAX: Final = 10.0
_AGAIN_S: Final = 0.1
_LEADERLESS: Final = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
"""A partition that was just made, or whose leader has just moved: its new one is known in a moment."""


class CommittedReader:
    """One topic (its name as it stands in Kafka), read as often as one likes; to be closed."""

    def __init__(self, kafka: KafkaOptions, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._group = f"{kafka.topic_prefix}{kafka.client_id}-reader"  # asked for; never joined
        self._consumer = kafka.clients.consumer(
            kafka.client_config()
            | {
                "group.id": self._group,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 20,  # an end is told by an answer without records: half a second later
                "auto.offset.reset": "earliest",
            }
        )

    def partitions(self) -> list[int]:
        """Return the partitions' numbers; none if nobody created it yet. Raises KafkaUnavailable."""
        try:
            known = self._consumer.list_topics(self._topic, timeout=_ANSWER_S_MAX).topics[self._topic]
        except KafkaException as error:
            raise KafkaUnavailable(self._kafka.bootstrap_servers, error.args[0].str()) from None
        if known.error is not None and known.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise self._refusal(known.error)
        return sorted(known.partitions)

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return a partition's first and last stable offset. Raises as ``partitions``."""
        where = TopicPartition(self._topic, partition)
        deadline = time.monotonic() + _ANSWER_S_MAX
        while True:
            try:
                low, high = self._consumer.get_watermark_offsets(where, timeout=_ANSWER_S_MAX)
            except KafkaException as error:
                if error.args[0].code() not in _LEADERLESS or time.monotonic() > deadline:
                    raise self._refusal(error.args[0]) from None
                time.sleep(_AGAIN_S)
            else:
                return low, high

    def since(self, partition: int, since_ms: int) -> int:
        """Return a partition's first offset that was appended at a time or later; its end if none was.

        Raises as ``partitions``.
        """
        asked = TopicPartition(self._topic, partition, max(since_ms, 0))  # below 0 they mean something else
        try:
            (found,) = self._consumer.offsets_for_times([asked], timeout=_ANSWER_S_MAX)
        except KafkaException as error:
            raise self._refusal(error.args[0]) from None
        return int(found.offset) if found.offset >= 0 else self.bounds(partition)[1]

    def read(self, starts: Mapping[int, int], ends: Mapping[int, int] | None = None) -> Iterator[Message]:
        """Give every committed record from the starts on: up to ``ends``, or to where each partition ends.

        Raises KafkaUnavailable, NotAuthorized.
        """
        self._consumer.assign([TopicPartition(self._topic, *start) for start in starts.items()])
        unread = set(starts)
        heard = time.monotonic()
        try:
            while unread:
                message = self._consumer.poll(0.1)
                if message is None:
                    if time.monotonic() - heard > _ANSWER_S_MAX:
                        raise KafkaUnavailable(self._kafka.bootstrap_servers, f"no answer for {self._topic}")
                    continue
                error = message.error()
                partition = int(message.partition() or 0)
                if error is None:
                    if ends is not None and int(message.offset() or 0) >= ends[partition]:
                        unread.discard(partition)
                    elif partition in unread:
                        yield message
                    heard = time.monotonic()  # after the caller had it: its own time is not the broker's
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # librdkafka's name for it
                    unread.discard(partition)
                elif not error.retriable() and error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
                    raise self._refusal(error)
        finally:
            self._consumer.unassign()

    def present(self) -> Iterator[Message]:
        """Give every record that is committed at the time of the call, a partition after the other.

        What is appended while it is read is not given: the reader may be who causes it.
        """
        bounds = {partition: self.bounds(partition) for partition in self.partitions()}
        for partition, (low, high) in bounds.items():
            if low < high:
                yield from self.read({partition: low}, {partition: high})

    def _refusal(self, error: KafkaError) -> KafkaFailure:
        group = error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED
        return refusal(
            self._kafka, f"Describe group {self._group}" if group else f"Read topic {self._topic}", error
        )

    def close(self) -> None:
        """Let the connection go."""
        self._consumer.close()
