"""Records as a test writes and reads them: typed events, rows of a schema, or bytes as they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

from connectors.kafka.chunk import Records, SourcePartition
from schemas.catalog import EVENT
from schemas.codec import Writer
from schemas.envelope import Event
from schemas.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipelines.tools import Tools
    from schemas.record import Headers
    from schemas.topics import TopicSpec


@dataclass(frozen=True, slots=True)
class Output:
    """One committed record of a topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: Any
    """An ``Event``, a dict, or bytes where the topic has no subject; None = a tombstone; a ``WireError`` says
    why it is none of them."""
    raw: bytes | None
    """The value as it stands in the log."""
    timestamp_us: int
    """When it was appended, microseconds since the epoch."""
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Feed:
    """One record that a test appends; ``partition`` None = by key."""

    spec: TopicSpec
    value: bytes | None
    key: bytes | None
    partition: int | None
    headers: Headers
    at_us: int


class RecordMaker:
    """Makes events, and turns what a test feeds into bytes and back."""

    def __init__(self, tools: Tools, register: Callable[[str, str], int]) -> None:
        self._tools = tools
        self._register = register
        self._counts: Counter[tuple[str, str]] = Counter()

    def event(
        self,
        type_: str,
        fields: Mapping[str, object],
        *,
        tenant: str,
        stream: str,
        now_us: int,
        **others: Any,
    ) -> Event:
        """Return the next event of a stream; what ``others`` says of its envelope wins.

        Raises:
            InvalidEvent: a field of the payload breaks the contract.
            UnknownType: there is no schema for the type.
        """
        payload, schema_id = self._tools.payloads.encode(type_, fields)
        number = self._counts[tenant, stream]
        self._counts[tenant, stream] += 1
        envelope: dict[str, Any] = {
            "event_id": f"{stream}-{number}", "tenant": tenant, "stream_id": stream, "seq": number,
            "kind": "log", "type": type_, "time": now_us, "source": "test", "request_id": "", "task_id": "",
            "upstream_id": "", "traceparent": "", "epoch": 0, "attempt": 0, "payload": payload,
            "payload_schema": schema_id,
        }  # fmt: skip
        return Event(**(envelope | others))

    def encode(self, spec: TopicSpec, value: Any, schema: str | None = None) -> bytes | None:
        """Return a value as it stands in the log; bytes go as they are, whether they decode or not.

        ``schema`` is the text that a row is written with, the topic's own if None.

        Raises:
            Unencodable: a row does not fit the schema.
            TypeError: a row for a topic without one.
        """
        if value is None or isinstance(value, bytes):
            return value
        if isinstance(value, Event):
            return self._tools.codec.encode_event(value)
        if schema is not None:
            # The id in the frame alone says what wrote a record: the topic's own subject stays as it is.
            subject = f"{spec.subject}.tests.{crc32(schema.encode()):08x}"
            schema_id = self._register(subject, schema)
            return Writer(schema_id, schema, b"\x00" + schema_id.to_bytes(4, "big")).write(value)
        if not spec.subject:
            raise TypeError(f"{spec.name} has no subject to encode {type(value).__name__} by: feed bytes")
        return self._tools.codec.encode(spec.subject, value)

    def outputs(self, spec: TopicSpec, messages: Sequence[Any]) -> list[Output]:
        """Return fetched messages of a topic as what a test reads."""
        records = Records(SourcePartition(spec.name, -1), messages)
        return [
            Output(
                spec.name, int(message.partition() or 0), record.offset, record.key,
                self.decode(spec, record.value), record.value, record.timestamp_us, record.headers,
            )
            for message, record in zip(messages, records, strict=True)
        ]  # fmt: skip

    def decode(self, spec: TopicSpec, value: bytes | None) -> Any:
        """Return what a value says, by the topic's subject; the WireError if it does not decode."""
        if value is None or not spec.subject:
            return value
        try:
            if spec.subject == EVENT:
                return self._tools.codec.decode_event(value)
            return self._tools.codec.decode(value, spec.subject)
        except WireError as error:
            return error
