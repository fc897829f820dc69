"""A world in which a language model is asked: a provider on loopback, workers, and what came of a request."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from connectors.llm.ledger import attempt_of
from pipelines.ingest import Ingest
from schemas.envelope import Event, new_event_id, stream_key
from schemas.kinds import BUILTIN_KINDS
from schemas.payloads import PayloadCodec
from schemas.record import Record
from schemas.topics import (
    DEAD_LETTERS,
    INPUT,
    LLM_ATTEMPTS,
    LLM_CONTENTS,
    LLM_CONTROL,
    LLM_PROMPTS,
    LLM_RAW,
    LLM_REQUESTS,
    LLM_ROUTES,
    OUTPUT,
)  # fmt: skip
from schemas.wire import WireCodec
from tests.support.read_topic import read_committed
from tests.unit.support_scope import Partition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from connectors.llm.ledger import Attempt
    from connectors.registry import Registry
    from schemas.topics import TopicSpec

TOPICS = (
    INPUT, LLM_REQUESTS, LLM_CONTROL, LLM_ATTEMPTS, LLM_CONTENTS, LLM_RAW, LLM_ROUTES, LLM_PROMPTS,
    DEAD_LETTERS,
)  # fmt: skip


@dataclass
class Answer:
    """What clients are shown of one stream, as ``ingest`` lets it through."""

    events: list[tuple[Event, dict[str, Any]]] = field(default_factory=list)
    ends_written: int = 0
    """How many ``end``s workers wrote of it; ``ingest`` would let through the first alone."""

    def of(self, *types: str) -> list[dict[str, Any]]:
        """Payloads of some types, in order."""
        return [fields for event, fields in self.events if event.type in types]

    @property
    def text(self) -> str:
        """The text that a client ends up with: what a reset supersedes is left out."""
        return self.channel("text")

    def channel(self, name: str) -> str:
        """What a client ends up with of a channel."""
        texts: list[str] = []
        for event, fields in self.events:
            if event.type == "reset":
                texts.clear()
            elif event.type == "token" and fields["channel"] == name:
                texts.append(fields["text"])
        return "".join(texts)

    @property
    def end(self) -> str:
        """How it ended."""
        (end,) = self.of("end")
        return end["reason"]


class LlmWorkerProcess:
    """``sluicegate llm`` as a user runs it."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._environment = environment
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it."""
        self.killed = False
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ops", "llm"],
                env={**os.environ, **self._environment},
                stdout=out,
                stderr=out,
            )

    def kill(self) -> None:
        """End it as a power cut does."""
        self.killed = True
        self.process.kill()
        self.process.wait(10)

    def dies(self) -> None:
        """Wait until it has died by a failpoint (``llm_failpoints``)."""
        self.killed = True
        assert self.process.wait(60) == -signal.SIGKILL

    def stop(self) -> int:
        """Ask it to stop; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


class LlmWorld:
    """Topics, a producer of requests, and readers of what became of them."""

    def __init__(self, kafka: KafkaOptions, registry: Registry, folder: Path) -> None:
        self.kafka = kafka
        self.wire, self.payloads = WireCodec(registry), PayloadCodec(registry)
        self._folder = folder
        self._producer = Producer(kafka.client_config() | {"partitioner": "murmur2_random", "linger.ms": 0})
        self._workers: list[LlmWorkerProcess] = []
        self._registry_url = registry.url

    def environment(self, providers: Mapping[str, Mapping[str, Any]], **settings: Any) -> dict[str, str]:
        """Settings of a worker, as variables; ``python_path`` is a folder of modules before all others."""
        data, path = settings.pop("data", "data"), settings.pop("python_path", None)
        named = {f"SLUICEGATE_LLM__{name.upper()}": str(value) for name, value in settings.items()}
        return {
            "SLUICEGATE_DATA_DIR": str(self._folder / data),
            "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "SLUICEGATE_KAFKA__TOPIC_PREFIX": self.kafka.topic_prefix,
            "SLUICEGATE_REGISTRY__URL": self._registry_url,
            "SLUICEGATE_REGISTRY__REGISTER_SCHEMAS": "false",
            "SLUICEGATE_KAFKA__CREATE_TOPICS": "false",
            "SLUICEGATE_LLM__PROVIDERS": orjson.dumps(providers).decode(),
            **({} if path is None else {"PYTHONPATH": str(path)}),
            **named,
        }

    def worker(self, providers: Mapping[str, Mapping[str, Any]], **settings: Any) -> LlmWorkerProcess:
        """Start a worker."""
        log = self._folder / f"llm-{len(self._workers)}.log"
        worker = LlmWorkerProcess(self.environment(providers, **settings), log)
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is None:
                worker.kill()

    # -- asking -------------------------------------------------------------------------------------------

    def ask(self, stream_id: str, text: str = "Say something.", **fields: Any) -> None:
        """Append a request."""
        record = {
            "tenant": "default",
            "stream_id": stream_id,
            "kind": "llm",
            "time_us": time.time_ns() // 1_000,
            "messages_json": orjson.dumps([{"role": "user", "content": text}]).decode(),
            **fields,
        }
        value = self.wire.encode(LLM_REQUESTS.subject, record)
        self.append(LLM_REQUESTS, stream_key(record["tenant"], stream_id), value)

    def route(self, name: str, version: int = 1, **config: Any) -> None:
        """Append a version of a route, as ``sluicegate llm routes set`` does."""
        record = {
            "name": name,
            "version": version,
            "config_json": orjson.dumps(config).decode(),
            "time_us": time.time_ns() // 1_000,
        }
        self.append(LLM_ROUTES, f"{name}/{version}".encode(), self.wire.encode(LLM_ROUTES.subject, record))

    def cancel(self, stream_id: str) -> None:
        """Append what ``ingest`` says of a cancel that it accepted."""
        self._control(stream_id, "cancel", {"reason": "enough"})

    def time_out(self, stream_id: str) -> None:
        """Append what ``ingest`` says of a stream that it timed out."""
        self._control(stream_id, "end", {"reason": "timed_out", "message": "no event"})

    def refuse_open(self, stream_id: str, open_id: str) -> None:
        """Append what ``ingest`` says of an ``open`` that it refused."""
        self._control(stream_id, "open", {"title": "again"}, open_id)

    def _control(self, stream_id: str, type_name: str, fields: Mapping[str, Any], event_id: str = "") -> None:
        payload, schema = self.payloads.encode(type_name, fields)
        event = Event(
            event_id or new_event_id(), "default", stream_id, 1, "llm", type_name, time.time_ns() // 1_000,
            "edge", "", "", "", "", 0, 0, payload, schema,
        )  # fmt: skip
        self.append(LLM_CONTROL, event.key, self.wire.encode_event(event))

    def append(self, topic, key: bytes, value: bytes) -> None:
        """Append any record."""
        self._producer.produce(topic.named(self.kafka.topic_prefix), value, key)
        assert self._producer.flush(30) == 0

    # -- what became of it ----------------------------------------------------------------------------------

    def answers(self, *stream_ids: str, deadline_s: float = 60.0) -> list[Answer]:
        """What clients are shown of streams, once each has ended: real ``ingest`` over what was written."""

        def all_ended(found) -> bool:
            for worker in self._workers:
                assert worker.killed or worker.process.poll() is None, worker.log.read_text()[-2_000:]
            ends = {
                message.key() for message in found if self.wire.decode_event(message.value()).type == "end"
            }
            return ends >= {stream_key("default", each) for each in stream_ids}

        found = read_committed(self.kafka, INPUT, all_ended, deadline_s=deadline_s, quiet_s=0.3)
        step = Ingest(BUILTIN_KINDS, self.wire, self.payloads)
        answers = {stream_key("default", each): Answer() for each in stream_ids}
        for number in range(INPUT.partitions):
            partition = Partition(number)
            records = [
                Record(INPUT.name, number, m.offset(), m.timestamp()[1] * 1_000, m.key(), m.value())
                for m in found
                if m.partition() == number
            ]
            step_items = [(record, self.wire.decode_event(record.value)) for record in records]
            for _record, event in step_items:
                if event.type == "end" and event.key in answers:
                    answers[event.key].ends_written += 1
            if step_items:
                scope = partition.scope()
                step.handle(scope, step_items)
                partition.commit(scope)
            for _key, value in partition.logs[OUTPUT.name]:
                event = self.wire.decode_event(value)
                if event.key in answers:
                    fields = self.payloads.decode(event.payload_schema, event.payload)
                    answers[event.key].events.append((event, fields))
        return [answers[stream_key("default", each)] for each in stream_ids]

    def answer(self, stream_id: str, **options: Any) -> Answer:
        """What clients are shown of one stream, once it has ended."""
        return self.answers(stream_id, **options)[0]

    def is_at_rest(self) -> bool:
        """Whether workers are done with all that was asked: none of it will be taken, and ended, again."""
        group = {"group.id": f"{self.kafka.topic_prefix}sluicegate.llm"}
        topic = LLM_REQUESTS.named(self.kafka.topic_prefix)
        consumer = Consumer(self.kafka.client_config() | group)
        try:
            places = [TopicPartition(topic, number) for number in range(LLM_REQUESTS.partitions)]
            ends = [consumer.get_watermark_offsets(place, timeout=10)[1] for place in places]
            committed = [max(place.offset, 0) for place in consumer.committed(places, timeout=10)]
        finally:
            consumer.close()
        return committed == ends

    def attempts(self, stream_id: str) -> list[Attempt]:
        """What the ledger says of an operation in the end, by number."""
        found: dict[int, Attempt] = {}
        for row in self.rows():
            if row.stream_id == stream_id:
                found[row.attempt] = row
        return [found[number] for number in sorted(found)]

    def rows(
        self, quiet_s: float = 0.3, topic: TopicSpec = LLM_ATTEMPTS, deadline_s: float = 90.0
    ) -> list[Attempt]:
        """All rows of the ledger, or of contents, in the order in which they were written a partition."""
        return [
            attempt_of(self.wire.decode(message.value(), topic.subject))
            for message in read_committed(self.kafka, topic, 0, deadline_s=deadline_s, quiet_s=quiet_s)
        ]


def until(holds: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "never seen"
        time.sleep(0.02)
