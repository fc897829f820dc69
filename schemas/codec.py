"""Avro bodies: one schema's reader and writer, made once and bounded in what they accept."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import fastavro
import orjson

from schemas.errors import Undecodable, Unencodable
from schemas.limits import checked_schema, without_logical_types
from schemas.shape import shape_of

if TYPE_CHECKING:
    from collections.abc import Mapping

# All that fastavro raises over bytes or schemas that do not fit, found by fuzzing.
BROKEN: Final = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RecursionError, TypeError,
    ValueError, fastavro.schema.SchemaParseException, fastavro.read.SchemaResolutionError,
)  # fmt: skip


class Reader:
    """Reads bodies of one writer's schema as the reader's schema, or as they were written."""

    def __init__(self, schema_id: int, writer: str, reader: str | None, name: str | None = None) -> None:
        """Parse the writer's text and, where it differs, the reader's.

        Raises:
            Undecodable: the writer's schema is refused, or is not of the record ``name``.
        """
        self._id = schema_id
        schema = checked_schema(writer, schema_id)
        full = record_name(schema)
        if name is not None and full != name:
            raise Undecodable(f"holds {full}, where {name} was expected", schema_id=schema_id)
        try:
            self._writer = parsed(schema)
            wanted = None if reader is None else without_logical_types(orjson.loads(reader))
            # Of the same shape is the same: resolution would only cost, on every record.
            same = wanted is None or shape_of(wanted) == shape_of(schema)
            self._reader = None if same else parsed(wanted)
        except BROKEN as error:
            raise Undecodable(f"schema is malformed: {error}", schema_id=schema_id) from None
        self.resolves: bool = self._reader is not None
        """Whether writer and reader differ."""

    @property
    def writer(self) -> Any:
        """The writer's schema as ``parsed`` gives it, without logical types."""
        return self._writer

    def read(self, data: bytes, start: int = 0, *, tagged: bool = False) -> dict[str, Any]:
        """Return the record whose body is ``data[start:]``, all of it.

        ``tagged`` gives each record in a union as its name and itself.

        Raises:
            Undecodable: the body is cut, has bytes too many, or does not fit.
        """
        body = BytesIO(data)
        body.seek(start)
        try:
            record = fastavro.schemaless_reader(body, self._writer, self._reader, return_record_name=tagged)
        except BROKEN as error:
            raise Undecodable(f"body does not fit: {_said(error)}", schema_id=self._id) from None
        rest = len(data) - body.tell()
        if rest:
            raise Undecodable(f"{rest} bytes too many after the record", schema_id=self._id)
        return record  # type: ignore[return-value]


class Writer:
    """Writes records of one schema, after a fixed prefix."""

    def __init__(self, schema_id: int, text: str, prefix: bytes = b"") -> None:
        self.schema_id = schema_id
        self._schema = parsed(checked_schema(text, schema_id))
        self.prefix = prefix

    def write(self, record: Mapping[str, Any]) -> bytes:
        """Return prefix and body.

        Raises:
            Unencodable: a field is missing without a default, or has a wrong type.
        """
        out = BytesIO()
        out.write(self.prefix)
        try:
            fastavro.schemaless_writer(out, self._schema, record)
        except BROKEN as error:
            name = record_name(self._schema)
            raise Unencodable(f"record does not fit {name}: {_said(error)}") from None
        return out.getvalue()


def parsed(schema: Any) -> Any:
    """Return a schema as fastavro wants it, with defaults of bytes as bytes.

    fastavro takes a default as it stands in the JSON, where bytes are text of the characters 0 to 255.
    """
    made = fastavro.parse_schema(schema)
    _set_defaults(made)
    return made


def _set_defaults(schema: Any) -> None:
    if isinstance(schema, list):
        for branch in schema:
            _set_defaults(branch)
    elif isinstance(schema, dict):
        for field in schema.get("fields", ()):
            _set_defaults(field["type"])
            if "default" in field:
                field["default"] = _native(field["type"], field["default"])
        for part in ("items", "values", "type"):
            _set_defaults(schema.get(part))


def _native(schema: Any, value: Any) -> Any:
    """Return a JSON default as the value that a reader of bytes would have given."""
    if isinstance(schema, list):
        return _native(schema[0], value)  # Avro: a union's default is of its first branch
    kind = schema["type"] if isinstance(schema, dict) else schema
    if kind in ("bytes", "fixed") and isinstance(value, str):
        return value.encode("latin-1")
    if kind == "array" and isinstance(value, list):
        return [_native(schema["items"], part) for part in value]
    if kind == "map" and isinstance(value, dict):
        return {name: _native(schema["values"], part) for name, part in value.items()}
    if kind == "record" and isinstance(value, dict):
        types = {field["name"]: field["type"] for field in schema["fields"]}
        return {name: _native(types[name], part) for name, part in value.items() if name in types}
    return value


def record_name(schema: Any) -> str:
    """Return the full name of a record schema."""
    name: str = schema["name"]
    namespace = schema.get("namespace")
    return name if "." in name or not namespace else f"{namespace}.{name}"


def _said(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
