"""Whole streams as a producer would send them, and the check that each event came out once and in order."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from confluent_kafka import Producer

from schemas.published import event_from_json
from schemas.topics import INPUT, OUTPUT
from tests.support.read_topic import read_committed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from confluent_kafka import Message

    from connectors.kafka.options import KafkaOptions
    from schemas.envelope import Event
    from schemas.payloads import PayloadCodec
    from schemas.wire import WireCodec


class PlainStreams:
    """Streams ``s-0`` … of one new tenant: ``open``, numbered log lines, ``end``."""

    def __init__(
        self, kafka: KafkaOptions, codec: WireCodec, payloads: PayloadCodec, streams: int = 20
    ) -> None:
        self.kafka, self._codec, self._payloads = kafka, codec, payloads
        self.tenant = f"t-{uuid.uuid4().hex[:8]}"
        self.sent: dict[bytes, list[str]] = {}
        self.acknowledged: set[tuple[int, int]] = set()
        """Partition and offset of what Kafka said it has."""
        self._names = [f"s-{number}" for number in range(streams)]
        self._producer = Producer(
            kafka.client_config()
            | {"partitioner": "murmur2_random", "linger.ms": 5, "enable.idempotence": True}
        )

    def open(self) -> None:
        self.publish("open", [{"title": "plain"}])

    def lines(self, count: int) -> None:
        self.publish("log", [{"line": f"line {number}"} for number in range(count)])

    def end(self) -> None:
        self.publish("end", [{"reason": "completed"}])

    def publish(self, type_: str, payloads: Sequence[dict[str, object]], *, ago_s: int = 0) -> None:
        """Send each payload to each stream, dated so long ago, and wait until Kafka has them."""
        for payload in payloads:
            for name in self._names:
                event = self._event(name, type_, payload, ago_s)
                self.sent.setdefault(event.key, []).append(event.event_id)
                self.produce(event.key, self._codec.encode_event(event))
        assert self._producer.flush(60) == 0

    def check(self, deadline_s: float = 90.0) -> None:
        """Each stream's output is what was sent, once each and in order; nothing else is there."""
        total = sum(len(ids) for ids in self.sent.values())
        came: dict[bytes, list[str]] = {key: [] for key in self.sent}
        for message in read_committed(self.kafka, OUTPUT, total, deadline_s=deadline_s):
            event = self._codec.decode_event(message.value())
            came[event.key].append(event.event_id)
            assert event.seq == len(came[event.key]) - 1
        assert came == self.sent

    def _event(self, name: str, type_: str, payload: dict[str, object], ago_s: int) -> Event:
        seq = len(self.sent.get(f"{self.tenant}/{name}".encode(), ()))
        return event_from_json(
            {"type": type_, "seq": seq, "payload": payload},
            tenant=self.tenant,
            stream_id=name,
            kind="log",
            payloads=self._payloads,
            now_us=time.time_ns() // 1_000 - ago_s * 1_000_000,
        )

    def produce(self, key: bytes, value: bytes) -> None:
        """Send one record, whatever it holds; a broker that is away for a while is waited for."""
        topic = INPUT.named(self.kafka.topic_prefix)
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def _delivered(self, error: object, message: Message) -> None:
        if error is None:
            self.acknowledged.add((message.partition() or 0, message.offset() or 0))
