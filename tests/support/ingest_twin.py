"""Writes the output, index and reject topics as ingest does, with real transactions, so that an edge can be
tested without a worker: contiguous ``seq``, the index in the same transaction order, verdicts by event.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from connectors.kafka.producer import Appender, AppenderOptions
from schemas.envelope import Event, new_event_id, stream_key
from schemas.payloads import PayloadCodec
from schemas.topics import INDEX, OUTPUT, REJECTS, partition_of
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from connectors.kafka.options import KafkaOptions
    from schemas.catalog import SchemaSource
    from schemas.topics import TopicSpec

T = TypeVar("T")


@dataclass
class TwinStream:
    """One stream as ingest keeps it."""

    tenant: str
    stream_id: str
    kind: str
    title: str
    next_seq: int = 0
    bytes: int = 0
    last_offset: int = -1
    opened_us: int = 0
    open_offset: int = -1
    end_offset: int = -1
    end_seq: int = -1
    ended_us: int = 0
    end_reason: str = ""
    marks: list[dict[str, int]] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)


class IngestTwin:
    """Synchronous; for one caller at a time."""

    def __init__(self, kafka: KafkaOptions, source: SchemaSource) -> None:
        self._kafka = kafka
        self._streams: dict[str, TwinStream] = {}
        self._prefix = kafka.topic_prefix
        self._wire = WireCodec(source)
        self._payloads = PayloadCodec(source)
        self._loop = asyncio.new_event_loop()
        # On a thread of its own: a browser test has another loop on its thread.
        threading.Thread(target=self._loop.run_forever, name="ingest-twin", daemon=True).start()
        # A cluster that has just started may take seconds to know its coordinators.
        self._appender = Appender(kafka, AppenderOptions(producers=1, wait_ms_max=60_000))

    def close(self) -> None:
        """Let go of Kafka."""
        self._run(self._appender.close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def open(
        self,
        stream_id: str,
        *,
        kind: str = "log",
        title: str = "",
        tenant: str = "default",
        at_us: int | None = None,
    ) -> TwinStream:
        """Open a stream."""
        stream = TwinStream(tenant, stream_id, kind, title, opened_us=time.time_ns() // 1_000)
        self._streams[stream_id] = stream
        self.write(stream, [("open", {"title": title})], at_us=at_us)
        return stream

    def stream(self, stream_id: str) -> TwinStream:
        """The stream that was opened last under a name."""
        return self._streams[stream_id]

    def logs(
        self,
        stream: TwinStream,
        count: int,
        *,
        at_once: int = 1_000,
        at_us: int | None = None,
        padding: str = "",
    ) -> None:
        """Write numbered lines: event seq n says ``line n``, and the padding."""
        while count > 0:
            some = min(count, at_once)
            first = stream.next_seq
            lines = [("log", {"line": f"line {first + n}{padding}"}) for n in range(some)]
            self.write(stream, lines, at_us=at_us)
            count -= some

    def end(self, stream: TwinStream, reason: str = "completed", *, at_us: int | None = None) -> None:
        """End a stream."""
        self.write(stream, [("end", {"reason": reason, "events": stream.next_seq})], at_us=at_us)

    def write(
        self,
        stream: TwinStream,
        events: Sequence[tuple[str, dict[str, Any]]],
        *,
        event_ids: Sequence[str] = (),
        at_us: int | None = None,
    ) -> None:
        """Write events as one unit of work, then the index entry; ``at_us`` is their time, or it is now."""
        time_us = time.time_ns() // 1_000 if at_us is None else at_us
        made = [
            self._event(stream, number, type_name, fields, time_us)._replace(
                event_id=event_ids[number] if event_ids else new_event_id()
            )
            for number, (type_name, fields) in enumerate(events)
        ]
        topic = OUTPUT.named(self._prefix)
        offsets = self._run(
            self._appender.append_transaction(
                [(topic, event.key, self._wire.encode_event(event), None) for event in made]
            )
        )
        for event, at in zip(made, offsets, strict=True):
            if event.type == "open":
                stream.open_offset = at.offset
            if event.type == "end":
                stream.end_offset, stream.end_seq = at.offset, event.seq
                stream.ended_us, stream.end_reason = event.time, dict(events)["end"]["reason"]
            if event.seq and event.seq % 1_000 == 0:
                stream.marks.append({"seq": event.seq, "offset": at.offset, "bytes": stream.bytes})
            stream.bytes += len(event.payload)
        stream.next_seq += len(made)
        stream.last_offset = offsets[-1].offset
        self.index(stream)

    def index(self, stream: TwinStream) -> None:
        """Write the stream's index entry."""
        key = stream_key(stream.tenant, stream.stream_id)
        entry = {
            "tenant": stream.tenant,
            "stream_id": stream.stream_id,
            "kind": stream.kind,
            "partition": partition_of(key, OUTPUT.partitions),
            "topic_version": 1,
            "opened_us": stream.opened_us,
            "open_offset": stream.open_offset,
            "marks": stream.marks,
            "last_seq": stream.next_seq - 1,
            "bytes": stream.bytes if stream.marks or stream.end_seq >= 0 else -1,
            "end_offset": stream.end_offset,
            "end_seq": stream.end_seq,
            "ended_us": stream.ended_us,
            "end_reason": stream.end_reason,
            "updated_us": stream.opened_us,
            "title": stream.title,
            "labels": {},
        }
        value = self._wire.encode(INDEX.subject, entry)
        self._run(self._appender.append_transaction([(INDEX.named(self._prefix), key, value, None)]))

    def reject(self, tenant: str, stream_id: str, event_id: str, verdict: str) -> None:
        """Write a verdict."""
        fields = {
            "event_id": event_id,
            "tenant": tenant,
            "stream_id": stream_id,
            "seq": 3,
            "type": "log",
            "verdict": verdict,
            "detail": f"this is {verdict}",
            "topic": "streams.input.v1",
            "partition": 0,
            "offset": 0,
            "time_us": time.time_ns() // 1_000,
        }
        value = self._wire.encode(REJECTS.subject, fields)
        key = stream_key(tenant, stream_id)
        self._run(self._appender.append_transaction([(REJECTS.named(self._prefix), key, value, None)]))

    def payload(self, event: Event) -> dict[str, Any]:
        """An event's payload."""
        return self._payloads.decode(event.payload_schema, event.payload)

    def records(self, spec: TopicSpec) -> list[Event]:
        """All events that stand in a topic now, partition by partition."""
        consumer = Consumer(
            self._kafka.client_config() | {"group.id": "none", "isolation.level": "read_committed"}
        )
        found: list[Event] = []
        topic = spec.named(self._prefix)
        for partition in range(spec.partitions):
            place = TopicPartition(topic, partition)
            low, high = consumer.get_watermark_offsets(place, timeout=10)
            consumer.assign([TopicPartition(topic, partition, low)])
            while low < high and consumer.position([place])[0].offset < high:
                message = consumer.poll(1.0)
                if message is not None and message.error() is None:
                    found.append(self._wire.decode_event(message.value()))
        consumer.close()
        return found

    def many(self, stream: TwinStream, count: int) -> None:
        """Write lines of a stream by the hundred thousand: in no transaction, alike but for their seq."""
        event = self._event(stream, 0, "log", {"line": "x" * 60}, time.time_ns() // 1_000)
        event = event._replace(event_id="many")
        value = self._wire.encode_event(event)
        topic, first = OUTPUT.named(self._prefix), stream.next_seq
        stream.next_seq += count
        producer = Producer(
            self._kafka.client_config()
            | {"partitioner": "murmur2_random", "enable.idempotence": True, "linger.ms": 20,
               "compression.type": "lz4"}
        )  # fmt: skip

        def mark(seq: int) -> Callable[[object, Message], None]:
            size = stream.bytes + (seq - first) * len(event.payload)

            def delivered(error: object, message: Message) -> None:
                assert error is None
                stream.marks.append({"seq": seq, "offset": message.offset(), "bytes": size})

            return delivered

        for seq in range(first, stream.next_seq):
            note = None if seq % 1_000 else mark(seq)
            producer.produce(topic, self._wire.renumber(value, event, seq), event.key, on_delivery=note)
            if seq % 50_000 == 0:  # half of what the producer holds
                assert producer.flush(60) == 0
        assert producer.flush(60) == 0
        stream.bytes += count * len(event.payload)
        self.index(stream)

    def tombstone(self, stream: TwinStream) -> None:
        """The stream's history is over: take it out of the index."""
        key = stream_key(stream.tenant, stream.stream_id)
        self._run(self._appender.append_transaction([(INDEX.named(self._prefix), key, None, None)]))

    def delete_before(self, spec: TopicSpec, partition: int, offset: int) -> None:
        """Do what retention does: the partition begins at ``offset`` from now on."""
        place = TopicPartition(spec.named(self._prefix), partition, offset)
        admin = AdminClient(self._kafka.client_config())  # held: its futures never settle once it is gone
        for future in admin.delete_records([place]).values():
            future.result(20)

    def raw(self, topic: str, key: bytes, value: bytes | None) -> None:
        """Write a record as it is."""
        self._run(self._appender.append_transaction([(self._prefix + topic, key, value, None)]))

    def _event(
        self, stream: TwinStream, number: int, type_name: str, fields: dict[str, Any], time_us: int
    ) -> Event:
        payload, schema_id = self._payloads.encode(type_name, fields)
        return Event(
            event_id="",
            tenant=stream.tenant,
            stream_id=stream.stream_id,
            seq=stream.next_seq + number,
            kind=stream.kind,
            type=type_name,
            time=time_us,
            source="twin",
            request_id="",
            task_id="",
            upstream_id="",
            traceparent="",
            epoch=0,
            attempt=0,
            payload=payload,
            payload_schema=schema_id,
        )

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)
