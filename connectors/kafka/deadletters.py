"""Reads the dead letters: the newest of all partitions, or the one at its coordinates."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from connectors.kafka.access import refusal
from connectors.kafka.errors import KafkaUnavailable
from schemas.errors import WireError
from schemas.topics import DEAD_LETTERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from confluent_kafka import Message

    from connectors.kafka.options import KafkaOptions
    from schemas.wire import WireCodec

_ANSWER_S_MAX: Final = 10.0
# Markers of transactions take offsets too, about one for each letter: so look further back than asked.
_OFFSETS_A_LETTER: Final = 4


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be handled; ``partition`` and ``offset`` are those of the letter itself."""

    partition: int
    offset: int
    from_topic: str
    from_partition: int
    from_offset: int
    key: bytes | None
    value: bytes
    schema_id: int
    """Of the record's frame; -1 if it has none."""
    cause: str
    detail: str
    agent: str
    code_version: str
    attempts: int
    time_us: int
    """When the letter was written, by the broker; 0 = not known."""

    @property
    def id(self) -> str:
        """Its own coordinates, ``partition:offset``: how a letter is asked for."""
        return f"{self.partition}:{self.offset}"


class DeadLetterReader:
    """Reads committed letters without joining a group; to be closed."""

    def __init__(self, kafka: KafkaOptions, codec: WireCodec) -> None:
        self._kafka = kafka
        self._codec = codec
        self._topic = DEAD_LETTERS.named(kafka.topic_prefix)
        self._consumer = Consumer(
            kafka.client_config()
            | {
                "group.id": f"{kafka.topic_prefix}{kafka.client_id}-dead-letters",  # asked for; never joined
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )

    def newest(self, limit: int) -> list[DeadLetter]:
        """The newest letters, the newest first. Raises KafkaUnavailable."""
        starts = []
        for partition in self._partitions():
            low, high = self._bounds(partition)
            starts.append(TopicPartition(self._topic, partition, max(low, high - _OFFSETS_A_LETTER * limit)))
        letters = [self._letter(message) for message in self._read(starts)]
        letters.sort(key=lambda letter: (letter.time_us, letter.offset), reverse=True)
        return letters[:limit]

    def at(self, partition: int, offset: int) -> DeadLetter | None:
        """The letter at its coordinates, or None if none stands there (any more). Raises KafkaUnavailable."""
        if partition not in self._partitions():
            return None
        low, high = self._bounds(partition)
        if not low <= offset < high:
            return None
        for message in self._read([TopicPartition(self._topic, partition, offset)]):
            return self._letter(message) if message.offset() == offset else None
        return None

    def close(self) -> None:
        """Let the connection go."""
        self._consumer.close()

    def _partitions(self) -> list[int]:
        try:
            known = self._consumer.list_topics(self._topic, timeout=_ANSWER_S_MAX).topics[self._topic]
        except KafkaException as error:
            raise KafkaUnavailable(self._kafka.bootstrap_servers, str(error)) from None
        if known.error is not None and known.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise refusal(self._kafka, f"Read topic {self._topic}", known.error)
        return sorted(known.partitions)  # a topic that nobody created yet holds no letters

    def _bounds(self, partition: int) -> tuple[int, int]:
        where = TopicPartition(self._topic, partition)
        try:
            low, high = self._consumer.get_watermark_offsets(where, timeout=_ANSWER_S_MAX)
        except KafkaException as error:
            raise refusal(self._kafka, f"Read topic {self._topic}", error.args[0]) from None
        return low, high

    def _read(self, starts: list[TopicPartition]) -> Iterator[Message]:
        """Every committed record from the starts to the present ends."""
        self._consumer.assign(starts)
        unread = {start.partition for start in starts}
        heard = time.monotonic()
        try:
            while unread:
                message = self._consumer.poll(0.1)
                if message is None:
                    if time.monotonic() - heard > _ANSWER_S_MAX:
                        raise KafkaUnavailable(self._kafka.bootstrap_servers, f"no answer for {self._topic}")
                    continue
                error = message.error()
                if error is None:
                    heard = time.monotonic()
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # librdkafka's name for it
                    unread.discard(message.partition())
                elif not error.retriable() and error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
                    raise refusal(self._kafka, f"Read topic {self._topic}", error)
        finally:
            self._consumer.unassign()

    def _letter(self, message: Message) -> DeadLetter:
        partition, offset = int(message.partition() or 0), int(message.offset() or 0)
        value = bytes(message.value() or b"")
        try:
            fields = self._codec.decode(value, DEAD_LETTERS.subject)
        except WireError as error:  # somebody else wrote into our topic: show that, too
            fields = {"topic": "", "partition": -1, "offset": -1, "key": message.key(), "value": value}
            fields |= {"cause": "not a dead letter", "detail": str(error)}
        return _letter_of(partition, offset, message.timestamp()[1] * 1_000, fields)


def _letter_of(partition: int, offset: int, time_us: int, fields: dict[str, Any]) -> DeadLetter:
    return DeadLetter(
        partition=partition,
        offset=offset,
        from_topic=fields["topic"],
        from_partition=fields["partition"],
        from_offset=fields["offset"],
        key=fields["key"],
        value=fields["value"],
        schema_id=fields.get("schema_id", -1),
        cause=fields["cause"],
        detail=fields.get("detail", ""),
        agent=fields.get("agent", ""),
        code_version=fields.get("code_version", ""),
        attempts=fields.get("attempts", 0),
        time_us=max(time_us, 0),
    )
