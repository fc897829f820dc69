"""Payloads: the typed content of an event, each type with a subject of its own."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from schemas.catalog import PAYLOAD_PREFIX, SchemaSource, payload_subject, subjects
from schemas.codec import Reader, Writer, parsed, record_name
from schemas.coerce import coercer
from schemas.envelope import PAYLOAD_BYTES_MAX, check_type_name
from schemas.errors import InvalidEvent, Unencodable, UnknownType
from schemas.limits import checked_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

END_REASONS: Final = ("completed", "cancelled", "timed_out", "upstream_error")
LOG_STREAMS: Final = ("", "stdout", "stderr")
TYPES_MAX: Final = 256  # types in use at once; a user's type costs a cache entry, not a restart


@cache
def _our_types() -> tuple[str, ...]:
    return tuple(name.removeprefix(PAYLOAD_PREFIX) for name in subjects() if name.startswith(PAYLOAD_PREFIX))


class PayloadCodec:
    """Writes and reads payloads; safe to share between threads.

    A type that is not ours is looked up as ``sluicegate.payload.<type>``: register its schema, and it passes.
    """

    def __init__(self, source: SchemaSource) -> None:
        self._source = source
        self._writers: dict[str, tuple[Writer, Callable[[object, str], Any]]] = {}
        self._readers: dict[int, tuple[Reader, str]] = {}

    def warm(self, type_names: Iterable[str]) -> None:
        """Fetch and parse what writing and reading payloads of these types takes; blocks.

        Raises:
            UnknownType: a type, or our version of it, is not registered.
            RegistryUnavailable: no answer.
        """
        for name in type_names:
            writer, _coerce = self._writers.get(name) or self._writer(name)
            self.subject_of(writer.schema_id)

    def encode(self, type: str, fields: Mapping[str, object]) -> tuple[bytes, int]:  # noqa: A002 - its name
        """Return (bare Avro body, registry id) of a payload; absent fields take their defaults.

        Raises:
            InvalidEvent: names the field as ``payload.<field>``.
            UnknownType: no schema is registered for the type.
            RegistryUnavailable: retry.
        """
        entry = self._writers.get(type) or self._writer(type)
        writer, coerce = entry
        plain = coerce(fields if isinstance(fields, dict) else dict(fields), "payload")
        check_payload(type, plain)
        try:
            body = writer.write(plain)
        except Unencodable as error:
            raise InvalidEvent("payload", str(error)) from None
        if len(body) > PAYLOAD_BYTES_MAX:
            raise InvalidEvent("payload", f"is {len(body)} bytes of Avro, at most {PAYLOAD_BYTES_MAX}")
        return body, writer.schema_id

    def decode(self, schema_id: int, body: bytes) -> dict[str, Any]:
        """Return a payload's fields: of our schema if the type is ours, else as they were written.

        Raises:
            UnknownSchemaId, Undecodable: the payload's own fault.
            RegistryUnavailable: retry.
        """
        entry = self._readers.get(schema_id) or self._reader(schema_id)
        return entry[0].read(body)

    def decode_as(self, type_name: str, schema_id: int, body: bytes) -> dict[str, Any]:
        """Return the fields of a payload that must be of a type of ours: none of them is missing.

        Raises InvalidEvent if it is of another, else as ``decode``.
        """
        subject = self.subject_of(schema_id)
        if subject != payload_subject(type_name):
            raise InvalidEvent("payload_schema", f"{schema_id} is of {subject}, not of {type_name}")
        return self.decode(schema_id, body)

    def subject_of(self, schema_id: int) -> str:
        """Return the subject (the record's full name) that a payload's schema id stands for.

        Raises as ``decode``.
        """
        entry = self._readers.get(schema_id) or self._reader(schema_id)
        return entry[1]

    def _writer(self, type_name: str) -> tuple[Writer, Callable[[object, str], Any]]:
        check_type_name(type_name)
        subject = payload_subject(type_name)
        try:
            schema_id = self._source.id_of(subject)
        except UnknownType:
            raise UnknownType(type_name, _our_types()) from None
        text = self._source.schema_of(schema_id)
        schema = parsed(checked_schema(text, schema_id))
        entry = Writer(schema_id, text), coercer(schema, {})
        if len(self._writers) >= TYPES_MAX:
            self._writers.clear()
        self._writers[type_name] = entry
        return entry

    def _reader(self, schema_id: int) -> tuple[Reader, str]:
        text = self._source.schema_of(schema_id)
        subject = record_name(checked_schema(text, schema_id))
        entry = Reader(schema_id, text, subjects().get(subject)), subject
        if len(self._readers) >= TYPES_MAX:
            self._readers.clear()
        self._readers[schema_id] = entry
        return entry


def check_payload(type_name: str, fields: Mapping[str, Any]) -> None:
    """Check what a payload's schema cannot say: closed sets, bounds, and text that a database can hold.

    For types that are ours; others pass. Fields that are absent pass too: their defaults are sound.

    Raises:
        InvalidEvent: names the field as ``payload.<field>``.
    """
    rules = _RULES.get(type_name)
    if rules is not None:
        for name, rule in rules.items():
            if name in fields:
                rule(fields[name], f"payload.{name}")


def _one_of(*allowed: str) -> Callable[[Any, str], None]:
    def check(value: Any, path: str) -> None:
        if value not in allowed:
            names = ", ".join(repr(name) for name in allowed)
            raise InvalidEvent(path, f"must be one of {names}, is {str(value)[:80]!r}")

    return check


def _not_negative(value: Any, path: str) -> None:
    if value is not None and value < 0:
        raise InvalidEvent(path, f"must not be negative, is {value}")


def _short(bytes_max: int) -> Callable[[Any, str], None]:
    """Bounded text without NUL: it becomes part of keys, labels of metrics and PostgreSQL text."""

    def check(value: Any, path: str) -> None:
        size = len(value.encode())
        if size > bytes_max:
            raise InvalidEvent(path, f"is {size} bytes of UTF-8, at most {bytes_max}")
        if "\x00" in value:
            raise InvalidEvent(path, "must not hold a NUL character")

    return check


def _name(bytes_max: int) -> Callable[[Any, str], None]:
    short = _short(bytes_max)

    def check(value: Any, path: str) -> None:
        short(value, path)
        if not value.isprintable():
            raise InvalidEvent(path, "must not hold control characters")

    return check


def _labels(value: Any, path: str) -> None:
    if len(value) > 32:
        raise InvalidEvent(path, f"has {len(value)} labels, at most 32")
    for name, text in value.items():
        _name(64)(name, f"{path}.{name[:64]}")
        _name(256)(text, f"{path}.{name}")


_RULES: Final[Mapping[str, Mapping[str, Callable[[Any, str], None]]]] = {
    "open": {
        "labels": _labels,
        "title": _name(256),
        "idle_timeout_ms": _not_negative,
        "total_timeout_ms": _not_negative,
    },
    "reset": {"from_seq": _not_negative, "reason": _short(1024)},
    "end": {"reason": _one_of(*END_REASONS), "message": _short(8192)},
    "cancel": {"reason": _short(1024), "by": _name(256)},
    "log": {"stream": _one_of(*LOG_STREAMS), "level": _name(32)},
    "usage": {
        "provider": _name(128),
        "model": _name(128),
        "provenance": _name(128),
        "calls": _not_negative,
        "errors": _not_negative,
        "input_tokens": _not_negative,
        "output_tokens": _not_negative,
        "cost_nanos": _not_negative,
        "latency_ms": _not_negative,
        "cached_input_tokens": _not_negative,
        "cache_write_tokens": _not_negative,
        "reasoning_tokens": _not_negative,
    },
}
