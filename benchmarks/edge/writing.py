"""Events into the topics: as ingest writes them, where the edge alone is measured, or as a producer does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from confluent_kafka import Message, Producer

from pipelines.listing import MARK_EVERY, thinned
from schemas.envelope import SEQ_UNSET, Event, new_event_id
from schemas.published import time_text
from schemas.topics import INDEX, OUTPUT, topic_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.options import KafkaOptions
    from schemas.payloads import PayloadCodec
    from schemas.topics import TopicSpec
    from schemas.wire import WireCodec

TENANT: Final = "default"
KIND: Final = "log"
FLUSH_S: Final = 120.0
_PAD: Final = "x" * 60


def stream_id(number: int) -> str:
    """Return the name of one of a work's streams."""
    return f"s-{number}"


def line_now() -> str:
    """Return the text of an event: when it was made, which the clients read, and what makes it 80 bytes."""
    return f"@{time.time_ns()} {_PAD}"


def shown(seq: int) -> bytes:
    """Return an event as this edge shows it, for servers that are handed what clients are to read."""
    now = time_text(time.time_ns() // 1_000)
    return (
        f'{{"type":"log","seq":{seq},"time":"{now}","event_id":"{new_event_id()}","line":"{line_now()}"}}'
    ).encode()


class Writer:
    """A native producer of events of some streams; ``kinds`` are theirs by number, else all are ``log``."""

    def __init__(
        self, kafka: KafkaOptions, codec: WireCodec, payloads: PayloadCodec, kinds: Sequence[str] = ()
    ) -> None:
        self._codec = codec
        self._kinds = kinds
        self._payloads = payloads
        self._prefix = kafka.topic_prefix
        self._producer = Producer(
            kafka.client_config()
            | {"partitioner": "murmur2_random", "linger.ms": 5, "enable.idempotence": True}
        )

    def open(self, stream: int, topic: TopicSpec) -> None:
        """Open a stream; in the output topic it is event 0, and has its entry in the index."""
        seq = 0 if topic is OUTPUT else SEQ_UNSET
        self.send(stream, seq, topic, "open", {"title": "bench"})

    def line(self, stream: int, topic: TopicSpec, seq: int = SEQ_UNSET) -> None:
        """Send one event of now."""
        self.send(stream, seq, topic, "log", {"line": line_now()})

    def send(
        self, stream: int, seq: int, topic: TopicSpec, type_name: str, payload: dict[str, object]
    ) -> None:
        """Hand one event over; waits while the producer's queue is full."""
        body, schema_id = self._payloads.encode(type_name, payload)
        event = Event(
            event_id=new_event_id(), tenant=TENANT, stream_id=stream_id(stream), seq=seq,
            kind=self._kinds[stream] if self._kinds else KIND, type=type_name,
            time=time.time_ns() // 1_000, source="bench", request_id="", task_id="",
            upstream_id="", traceparent="", epoch=0, attempt=0, payload=body, payload_schema=schema_id,
        )  # fmt: skip
        self._produce(topic, event.key, self._codec.encode_event(event))

    def history(self, stream: int, events: int) -> tuple[int, list[int]]:
        """Write a stream that has so many events, and its entry in the index, with a mark each thousand.

        Returns its partition and the offset of each event.
        """
        offsets = [-1] * events
        partitions = set()

        def note(seq: int) -> object:
            def delivered(error: object, message: Message) -> None:
                if error is None:
                    offsets[seq] = message.offset()
                    partitions.add(message.partition())

            return delivered

        body, schema_id = self._payloads.encode("log", {"line": line_now()})
        first, first_schema = self._payloads.encode("open", {"title": "bench"})
        for seq in range(events):
            event = Event(
                event_id=f"e-{seq}", tenant=TENANT, stream_id=stream_id(stream), seq=seq, kind=KIND,
                type="log" if seq else "open", time=time.time_ns() // 1_000, source="bench", request_id="",
                task_id="", upstream_id="", traceparent="", epoch=0, attempt=0,
                payload=body if seq else first, payload_schema=schema_id if seq else first_schema,
            )  # fmt: skip
            self._produce(OUTPUT, event.key, self._codec.encode_event(event), note(seq))
        self.flush()
        if -1 in offsets or len(partitions) != 1:
            raise RuntimeError(f"Kafka did not take all {events} events of the history on one partition")
        partition = partitions.pop()
        self._enter(stream, partition, offsets, len(body))
        return partition, offsets

    def _enter(self, stream: int, partition: int, offsets: list[int], event_bytes: int) -> None:
        """Write a stream's entry in the index, as ``pipelines/listing.py`` does."""
        marks: list[dict[str, int]] = []
        for seq in range(MARK_EVERY, len(offsets), MARK_EVERY):
            if not marks or seq % marks[0]["seq"] == 0:
                mark = {"seq": seq, "offset": offsets[seq], "bytes": seq * event_bytes}
                marks = thinned([*marks, mark])
        now_us = time.time_ns() // 1_000
        entry = {
            "tenant": TENANT, "stream_id": stream_id(stream), "kind": KIND, "partition": partition,
            "topic_version": topic_version(OUTPUT.name), "opened_us": now_us, "open_offset": offsets[0],
            "marks": marks, "last_seq": len(offsets) - 1, "bytes": len(offsets) * event_bytes,
            "end_offset": -1, "end_seq": -1, "ended_us": 0, "end_reason": "", "updated_us": now_us,
            "title": "bench", "labels": {},
        }  # fmt: skip
        key = f"{TENANT}/{stream_id(stream)}".encode()
        self._produce(INDEX, key, self._codec.encode(INDEX.subject, entry))
        self.flush()

    def flush(self) -> None:
        """Wait until Kafka has all; raises RuntimeError if it does not take it."""
        if self._producer.flush(FLUSH_S):
            raise RuntimeError(f"Kafka did not take what was produced in {FLUSH_S:.0f} s")

    def _produce(self, topic: TopicSpec, key: bytes, value: bytes, delivered: object = None) -> None:
        name = topic.named(self._prefix)
        while True:
            try:
                self._producer.produce(name, value, key, on_delivery=delivered)
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return
