"""One partition under a step, without Kafka: real scope, view and codecs over the in-memory backend."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.late import LateEventMaker
from pipelines.tools import DeadLetterMaker
from schemas.catalog import LocalSchemas
from schemas.envelope import Event
from schemas.errors import WireError
from schemas.payloads import PayloadCodec
from schemas.record import Record
from schemas.topics import LATE_EVENTS
from schemas.wire import WireCodec
from state.effects import Append, PartitionScope
from state.memory import MemoryBackend
from state.store import Position, StagedView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.topics import TopicSpec
    from state.scope import Scope

SCHEMAS = LocalSchemas()
CODEC = WireCodec(SCHEMAS)
PAYLOADS = PayloadCodec(SCHEMAS)
LETTERS = DeadLetterMaker(CODEC)
LATE = LateEventMaker(CODEC, LATE_EVENTS)
START_US = 1_700_000_000_000_000
SECOND_US = 1_000_000
DEFAULTS: dict[str, dict[str, object]] = {
    "open": {},
    "log": {"line": "a line", "stream": "stdout"},
    "end": {"reason": "completed"},
    "cancel": {"reason": "enough", "by": "a client"},
    "reset": {"from_seq": 0},
    "usage": {"provider": "acme", "model": "small", "input_tokens": 7},
    "progress": {"done": 1.0},
    "tick": {},
}


def make_event(
    type: str = "log",  # noqa: A002 - the name of the field
    seq: int = -1,
    *,
    stream: str = "build",
    tenant: str = "default",
    kind: str = "log",
    event_id: str | None = None,
    time: int = START_US,
    epoch: int = 0,
    fields: dict[str, object] | None = None,
    **others: Any,
) -> Event:
    """An event as a producer would send it; its id follows from stream, type and seq if not given."""
    payload, schema = PAYLOADS.encode(type, {**DEFAULTS.get(type, {}), **(fields or {})})
    rest = {"source": "test", "request_id": "", "task_id": "", "upstream_id": "", "traceparent": ""} | others
    attempt = rest.pop("attempt", 0)
    name = event_id or f"{stream}-{type}-{seq}-{time}"
    return Event(
        name, tenant, stream, seq, kind, type, time, **rest,
        epoch=epoch, attempt=attempt, payload=payload, payload_schema=schema,
    )  # fmt: skip


def decode_item(record: Record) -> Event | WireError | None:
    """What the worker hands to a step for a record of events."""
    try:
        return None if record.value is None else CODEC.decode_event(record.value)
    except WireError as error:
        return error


@dataclass
class Partition:
    """A partition and its committed world: store, output logs with offsets, counts."""

    number: int = 0
    input_topic: str = "streams.input.v1"
    backend: MemoryBackend = field(default_factory=MemoryBackend)
    logs: dict[str, list[tuple[bytes | None, bytes | None]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    counts: Counter[str] = field(default_factory=Counter)
    next_offset: int = 0

    def record(
        self,
        event: Event,
        append_us: int | None = None,
        *,
        key: bytes | None = None,
        offset: int | None = None,
    ) -> Record:
        """The event as the broker stored it; appended at its own event time unless said otherwise."""
        return self.raw(key or event.key, CODEC.encode_event(event), append_us or event.time, offset=offset)

    def raw(
        self, key: bytes | None, value: bytes | None, append_us: int = START_US, *, offset: int | None = None
    ) -> Record:
        """Any record."""
        if offset is None:
            offset, self.next_offset = self.next_offset, self.next_offset + 1
        return Record(self.input_topic, self.number, offset, append_us, key, value)

    def scope(self) -> PartitionScope:
        """A scope for one unit of work."""
        return PartitionScope("step", self.number, self.backend, None, LETTERS, LATE)

    def backend_view(self) -> StagedView:
        """The committed state, to read."""
        return StagedView(self.backend)

    def commit(self, scope: PartitionScope) -> None:
        """What the unit of work does on commit: append, tell offsets, append once more, then write."""
        for _wave in range(2):
            for append in scope.take_appends():
                self._append(append)
        assert not scope.appends
        self.backend.write(scope.view.staged, Position("", 0, 0))
        self.counts.update(scope.counts)
        scope.drop()

    def _append(self, append: Append) -> None:
        log = self.logs[append.topic.name]
        log.append((append.key, append.value))
        if append.on_offset is not None:
            append.on_offset(2 * len(log))  # offsets are not consecutive: commit markers take some

    def feed(self, step: Any, records: Sequence[Record]) -> None:
        """One unit of work over the records."""
        scope = self.scope()
        step.handle(scope, [(record, decode_item(record)) for record in records])
        self.commit(scope)

    def events(self, topic: TopicSpec) -> list[Event]:
        """The events of a topic."""
        return [CODEC.decode_event(value) for _, value in self.logs[topic.name] if value is not None]

    def values(self, topic: TopicSpec) -> list[dict[str, Any] | None]:
        """The records of a topic, None = a tombstone."""
        return [
            None if value is None else CODEC.decode(value, topic.subject)
            for _, value in self.logs[topic.name]
        ]

    def snapshot(self) -> dict[bytes, bytes]:
        """The committed store, byte for byte."""
        return dict(self.backend.scan(b"", b"\xff" * 64, 1 << 30))


def payload(event: Event) -> dict[str, Any]:
    """An event's payload."""
    return PAYLOADS.decode(event.payload_schema, event.payload)


def as_scope(scope: PartitionScope) -> Scope:
    """For the type checker: the real scope satisfies the port."""
    return scope
