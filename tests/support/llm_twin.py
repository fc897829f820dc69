"""Plays ingest and the worker of language models for an edge: what is opened is opened, what is asked for is
answered as the test says, each event in the output topic with a real transaction.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import orjson
from confluent_kafka import Consumer, TopicPartition

from schemas.topics import INPUT, LLM_REQUESTS, LLM_ROUTES
from schemas.wire import WireCodec
from tests.support.ingest_twin import IngestTwin, TwinStream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connectors.kafka.options import KafkaOptions
    from schemas.catalog import SchemaSource
    from schemas.envelope import Event

Step = tuple[str, dict[str, Any]] | threading.Event
"""An event of the answer, or what is waited for before the next."""


def text(*pieces: str) -> list[Step]:
    """Pieces of an answer's text."""
    return [("token", {"text": piece}) for piece in pieces]


def piece(text: str, **fields: Any) -> Step:
    """A piece of any channel."""
    return ("token", {"text": text, **fields})


def finish(how: str, **more: str) -> Step:
    """The worker's note of how the model finished."""
    return ("state", {"name": "finish", "value_json": orjson.dumps({"finish": how, **more}).decode()})


def failed(error_class: str) -> Step:
    """The worker's note of what went wrong."""
    return ("state", {"name": "error", "value_json": orjson.dumps({"error_class": error_class}).decode()})


def reset() -> Step:
    """What came is superseded."""
    return ("reset", {"from_seq": 1, "reason": "another attempt"})


def usage(**fields: Any) -> Step:
    """What a call took."""
    told = {
        "provider": "twin",
        "model": "twin-1",
        "input_tokens": 7,
        "output_tokens": 5,
        "provenance": "provider",
    }
    return ("usage", {**told, **fields})


def end(reason: str = "completed", message: str = "") -> Step:
    """How it ends."""
    return ("end", {"reason": reason, "message": message})


class LlmTwin:
    """Reads what the edge appends; ``answers`` says for each model what its answer is."""

    def __init__(self, kafka: KafkaOptions, source: SchemaSource) -> None:
        self.answers: dict[str, Sequence[Step] | Callable[[dict[str, Any]], Sequence[Step]]] = {}
        self.requests: list[dict[str, Any]] = []
        self.cancels: list[Event] = []
        self.ears = threading.Lock()
        """Whoever holds it has nothing read meanwhile."""
        self._wire = WireCodec(source)
        self._ingest = IngestTwin(kafka, source)
        self._streams: dict[bytes, TwinStream] = {}
        self._topics = {spec.named(kafka.topic_prefix): spec for spec in (INPUT, LLM_REQUESTS)}
        self._consumer = Consumer(
            kafka.client_config()
            | {"group.id": "none", "isolation.level": "read_committed", "fetch.wait.max.ms": 20}
        )
        self._consumer.assign(
            [
                TopicPartition(name, partition, 0)
                for name, spec in self._topics.items()
                for partition in range(spec.partitions)
            ]
        )
        self._stop = threading.Event()
        self._opens: dict[bytes, str] = {}
        """By stream, the event id of the open that was taken: whose question is answered."""
        self._answering: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="llm-twin", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let go of Kafka."""
        self._stop.set()
        for thread in (self._thread, *self._answering):
            thread.join(10)
        self._consumer.close()
        self._ingest.close()

    def wait_for(self, stream_id: str, within_s: float = 30) -> dict[str, Any]:
        """The request of a stream, once it is there."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            for request in tuple(self.requests):
                if request["stream_id"] == stream_id:
                    return request
            time.sleep(0.02)
        raise AssertionError(f"nobody asked for {stream_id}")

    def write(self, tenant: str, stream_id: str, steps: Sequence[Step]) -> None:
        """Go on with a stream from outside."""
        self._write(self._streams[f"{tenant}/{stream_id}".encode()], steps)

    def route(self, name: str, config: dict[str, Any], *, version: int = 1) -> None:
        """Write a version of a route, as its command does."""
        record = {
            "name": name,
            "version": version,
            "config_json": orjson.dumps(config).decode(),
            "time_us": time.time_ns() // 1_000,
        }
        value = self._wire.encode(LLM_ROUTES.subject, record)
        self._ingest.raw(LLM_ROUTES.name, f"{name}/{version}".encode(), value)

    def _run(self) -> None:
        while not self._stop.is_set():
            with self.ears:
                message = self._consumer.poll(0.1)
            if message is None or message.error() is not None:
                time.sleep(0.001)  # so that somebody else can have the lock
                continue
            if self._topics[message.topic()] is INPUT:
                self._judge(self._wire.decode_event(message.value()))
            else:
                self._take(self._wire.decode(message.value(), LLM_REQUESTS.subject), message.partition())

    def _judge(self, event: Event) -> None:
        if event.type == "cancel":
            self.cancels.append(event)
        if event.type != "open":
            return
        with self._lock:
            if event.key in self._streams:
                self._ingest.reject(event.tenant, event.stream_id, event.event_id, "second_open")
                return
            payload = self._ingest.payload(event)
            stream = TwinStream(
                event.tenant, event.stream_id, event.kind, payload["title"], opened_us=event.time
            )
            self._ingest.write(stream, [("open", payload)], event_ids=[event.event_id])
            self._opens[event.key] = event.event_id
            self._streams[event.key] = stream

    def _take(self, request: dict[str, Any], partition: int) -> None:
        for name in ("variables", "messages", "tools", "params", "schema"):
            if text := request.pop(f"{name}_json"):
                request[name] = orjson.loads(text)
        self.requests.append({**request, "partition": partition})
        answer = self.answers.get(request["model"] or request["route"], ())
        steps = answer(request) if callable(answer) else answer
        thread = threading.Thread(target=self._answer, args=(request, steps), daemon=True)
        self._answering.append(thread)
        thread.start()

    def _answer(self, request: dict[str, Any], steps: Sequence[Step]) -> None:
        key = f"{request['tenant']}/{request['stream_id']}".encode()
        while key not in self._streams and not self._stop.is_set():
            time.sleep(0.01)  # its open is on another topic
        if not self._stop.is_set() and request["open_id"] == self._opens[key]:
            self._write(self._streams[key], steps)

    def _write(self, stream: TwinStream, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, threading.Event):
                while not step.wait(0.05):
                    if self._stop.is_set():
                        return
                continue
            with self._lock:
                self._ingest.write(stream, [step])
