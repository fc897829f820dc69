"""Events into the topics: as ingest writes them, where the edge alone is measured, or as a producer does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from confluent_kafka import Message, Producer

from pipelines.listing import MARK_EVERY, thinned
from schemas.envelope import SEQ_UNSET, Event, new_event_id
from schemas.published import time_text
from schemas.topics import INDEX, OUTPUT, topic_version

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connectors.kafka.options import KafkaOptions
    from schemas.payloads import PayloadCodec
    from schemas.topics import TopicSpec
    from schemas.wire import WireCodec

TENANT: Final = "default"
KIND: Final = "log"
FLUSH_S: Final = 120.0
SHORT_EVENTS: Final = 10
"""Of a short finished stream: its ``open``, lines, and its ``end``."""
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


@dataclass(slots=True)
class _Places:
    """Where the events of a stream came to stand."""

    offsets: list[int]
    partitions: set[int] = field(default_factory=set)

    def note(self, seq: int) -> Callable[[object, Message], None]:
        """Return what notes the place of one event, once Kafka has it."""

        def delivered(error: object, message: Message) -> None:
            if error is None:
                self.offsets[seq] = int(message.offset() or 0)
                self.partitions.add(int(message.partition() or 0))

        return delivered


class Writer:
    """A native producer of events of some streams; ``kinds`` are theirs by number, else all are ``log``."""

    def __init__(
        self,
        kafka: KafkaOptions,
        codec: WireCodec,
        payloads: PayloadCodec,
        kinds: Sequence[str] = (),
        *,
        linger_ms: int = 5,
    ) -> None:
        self._codec = codec
        self._kinds = kinds
        self._payloads = payloads
        self._prefix = kafka.topic_prefix
        self._bodies: dict[str, tuple[bytes, int]] = {}
        self._producer = Producer(
            kafka.client_config()
            | {"partitioner": "murmur2_random", "linger.ms": linger_ms, "enable.idempotence": True}
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

    def history(self, stream: int, events: int, among: Sequence[int] = ()) -> tuple[int, list[int]]:
        """Write a stream that has so many events, and its entry in the index, with a mark each thousand.

        ``among``: short finished streams of the same partition, spread over the first three quarters of it.

        Returns its partition and the offset of each event.
        """
        every = max(events * 3 // 4 // max(len(among), 1), 1)
        left, places = list(among), {stream: _Places([-1] * events)}
        for seq in range(events):
            self._past(stream, seq, "log" if seq else "open", places[stream])
            if left and seq % every == every - 1:
                short = left.pop(0)
                places[short] = _Places([-1] * SHORT_EVENTS)
                for at in range(SHORT_EVENTS):
                    name = {0: "open", SHORT_EVENTS - 1: "end"}.get(at, "log")
                    self._past(short, at, name, places[short])
        self.flush()
        partitions = {partition for each in places.values() for partition in each.partitions}
        if left or len(partitions) != 1 or any(-1 in each.offsets for each in places.values()):
            raise RuntimeError(f"Kafka did not take all {events} events of the history on one partition")
        partition = partitions.pop()
        for number, each in places.items():
            self._enter(number, partition, each.offsets, len(self._body("log")[0]), ended=number != stream)
        self.flush()
        return partition, places[stream].offsets

    def _body(self, type_name: str) -> tuple[bytes, int]:
        """Return a payload of the past, which need not be of now, and its schema."""
        found = self._bodies.get(type_name)
        if found is None:
            fields: dict[str, dict[str, object]] = {
                "log": {"line": line_now()}, "open": {"title": "bench"}, "end": {"reason": "completed"},
            }  # fmt: skip
            found = self._bodies[type_name] = self._payloads.encode(type_name, fields[type_name])
        return found

    def _past(self, stream: int, seq: int, type_name: str, places: _Places) -> None:
        """Write one event of the past, and have its place noted."""
        body, schema_id = self._body(type_name)
        event = Event(
            event_id=f"e-{seq}", tenant=TENANT, stream_id=stream_id(stream), seq=seq, kind=KIND,
            type=type_name, time=time.time_ns() // 1_000, source="bench", request_id="", task_id="",
            upstream_id="", traceparent="", epoch=0, attempt=0, payload=body, payload_schema=schema_id,
        )  # fmt: skip
        self._produce(OUTPUT, event.key, self._codec.encode_event(event), places.note(seq))

    def _enter(
        self, stream: int, partition: int, offsets: list[int], event_bytes: int, *, ended: bool
    ) -> None:
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
            "end_offset": offsets[-1] if ended else -1, "end_seq": len(offsets) - 1 if ended else -1,
            "ended_us": now_us if ended else 0, "end_reason": "completed" if ended else "",
            "updated_us": now_us, "title": "bench", "labels": {},
        }  # fmt: skip
        key = f"{TENANT}/{stream_id(stream)}".encode()
        self._produce(INDEX, key, self._codec.encode(INDEX.subject, entry))

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
