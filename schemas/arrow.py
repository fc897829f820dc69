"""Avro's types as Arrow's: what each field of a subject is as a column.

| Avro | Arrow |
|---|---|
| `null`, `boolean`, `int`, `long`, `float`, `double`, `bytes`, `string` | null, bool, int32, int64, float32, float64, binary, string |
| `[null, T]` in either order | T, nullable |
| `record`, `array`, `map` | struct, list, map of string |
| any other union | dense union, its branches by Avro's names |
| `enum`; `fixed` | string; binary of that size |
| `date`, `time-millis`, `time-micros` | date32, time32[ms], time64[us] |
| `timestamp-millis`, `-micros`, `-nanos` | timestamp in UTC; `local-timestamp-…` without a zone |
| `decimal` of `bytes` or `fixed` | decimal128, or decimal256 beyond 38 digits |
| any other logical type (`uuid`, `duration`) | what it is on the wire |
"""  # noqa: E501  # a table

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from schemas.limits import VALUES_PER_BYTE_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLAIN: Final = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.string(),
}
_LOGICAL: Final = {
    ("int", "date"): pa.date32(),
    ("int", "time-millis"): pa.time32("ms"),
    ("long", "time-micros"): pa.time64("us"),
    ("long", "timestamp-millis"): pa.timestamp("ms", "UTC"),
    ("long", "timestamp-micros"): pa.timestamp("us", "UTC"),
    ("long", "timestamp-nanos"): pa.timestamp("ns", "UTC"),
    ("long", "local-timestamp-millis"): pa.timestamp("ms"),
    ("long", "local-timestamp-micros"): pa.timestamp("us"),
    ("long", "local-timestamp-nanos"): pa.timestamp("ns"),
}
_WIRE_BYTES: Final = {"null": 0, "float": 4, "double": 8}  # all others at least one
_DIGITS_MAX: Final = 76  # of decimal256; Arrow has no wider one
UNSET: Final = object()
"""A field's default where it has none: None is one."""


@dataclass(frozen=True, slots=True)
class Column:
    """One type of Avro's as a column."""

    kind: str
    """Avro's name of it; ``union`` is one that is no ``[null, T]``, which is a T that is ``nullable``."""
    type: pa.DataType
    wire: pa.DataType
    """As it is without its logical type."""
    name: str = ""
    """Full name of a record, enum or fixed."""
    fields: tuple[Field, ...] = ()
    """A record's fields, an array's items, a map's values, a union's branches."""
    symbols: tuple[str, ...] = ()
    nullable: bool = False
    null_first: bool = False

    @property
    def is_tagged(self) -> bool:
        """Whether a value in it tells its branch of a union only by the record's name."""
        dicts = sum(field.column.kind in ("record", "map") for field in self.fields)
        return (self.kind == "union" and dicts > 1) or any(field.column.is_tagged for field in self.fields)

    @property
    def cells(self) -> int:
        """Values in Arrow's arrays that one value of it takes at least: a null record has all its fields."""
        return 1 + sum(field.column.cells for field in self.fields) if self.kind == "record" else 1

    @property
    def wire_bytes(self) -> int:
        """Bytes that one value of it takes on the wire at least."""
        if self.nullable:
            return 1
        if self.kind == "record":
            return sum(field.column.wire_bytes for field in self.fields)
        return self.wire.byte_width if self.kind == "fixed" else _WIRE_BYTES.get(self.kind, 1)

    @property
    def is_wide(self) -> bool:
        """Whether a byte may become more values than ``limits`` lets it, as items that are null do."""
        items = self.fields if self.kind in ("array", "map") else ()
        return any(
            field.column.cells > VALUES_PER_BYTE_MAX * field.column.wire_bytes for field in items
        ) or any(field.column.is_wide for field in self.fields)

    @property
    def has_maps(self) -> bool:
        """Whether a map is in it, which Arrow gives back as pairs."""
        return self.kind == "map" or any(field.column.has_maps for field in self.fields)


@dataclass(frozen=True, slots=True)
class Field:
    """A column under its name."""

    name: str
    column: Column
    aliases: tuple[str, ...] = ()
    default: Any = UNSET


def column_of(schema: Any, *, logical_types: bool) -> Column:
    """Return a schema that ``codec.parsed`` gave as a column.

    Raises:
        ValueError: it holds itself, which no column does.
    """
    return _Types(logical_types=logical_types).of(schema)


class _Types:
    def __init__(self, *, logical_types: bool) -> None:
        self._logical_types = logical_types
        self._named: dict[str, Column | None] = {}

    def of(self, schema: Any) -> Column:  # noqa: PLR0911 - one a form
        if isinstance(schema, list):
            return self._union(schema)
        if isinstance(schema, str):
            plain = _PLAIN.get(schema)
            return self._known(schema) if plain is None else Column(schema, plain, plain)
        kind = schema["type"]
        match kind:
            case "record" | "error":
                return self._record(schema)
            case "enum":
                return self._name(Column(
                    kind, pa.string(), pa.string(), schema["name"], symbols=tuple(schema["symbols"])
                ))  # fmt: skip
            case "fixed":
                wire = pa.binary(schema["size"])
                return self._name(Column(kind, self._shown(schema, kind, wire), wire, schema["name"]))
            case "array":
                item = self._field("item", schema["items"])
                made = pa.list_(_arrow(item))
                return Column(kind, made, made, fields=(item,))
            case "map":
                value = self._field("value", schema["values"])
                made = pa.map_(pa.string(), _arrow(value))
                return Column(kind, made, made, fields=(value,))
        if isinstance(kind, str) and kind in _PLAIN:
            return Column(kind, self._shown(schema, kind, _PLAIN[kind]), _PLAIN[kind])
        return self.of(kind)

    def _union(self, branches: list[Any]) -> Column:
        if len(branches) == 2 and "null" in branches and branches != ["null", "null"]:
            first = branches[0] == "null"
            made = self.of(branches[first])
            if made.kind != "union":
                return Column(
                    made.kind, made.type, made.wire, made.name, made.fields, made.symbols,
                    nullable=True, null_first=first,
                )  # fmt: skip
        columns = [self.of(branch) for branch in branches]
        fields = tuple(Field(column.name or column.kind, column) for column in columns)
        made = pa.dense_union([pa.field(field.name, field.column.type) for field in fields])
        return Column("union", made, made, fields=fields)

    def _record(self, schema: Mapping[str, Any]) -> Column:
        name = schema["name"]
        self._named[name] = None
        fields = tuple(
            self._field(
                field["name"], field["type"], tuple(field.get("aliases", ())), field.get("default", UNSET)
            )
            for field in schema["fields"]
        )
        made = pa.struct(list(map(_arrow, fields)))
        return self._name(Column("record", made, made, name, fields))

    def _field(self, name: str, schema: Any, aliases: tuple[str, ...] = (), default: Any = UNSET) -> Field:
        return Field(name, self.of(schema), aliases, default)

    def _known(self, name: str) -> Column:
        column = self._named[name]
        if column is None:
            raise ValueError(f"{name} holds itself, and no column of Arrow's does")
        return column

    def _name(self, column: Column) -> Column:
        self._named[column.name] = column
        return column

    def _shown(self, schema: Mapping[str, Any], kind: str, wire: pa.DataType) -> pa.DataType:
        logical = schema.get("logicalType") if self._logical_types else None
        if logical == "decimal" and kind in ("bytes", "fixed"):
            digits, scale = schema.get("precision", 0), schema.get("scale", 0)
            if not 0 < digits <= _DIGITS_MAX or not 0 <= scale <= digits:
                return wire  # by the specification: what is no decimal is what it is without it
            narrow = digits <= 38  # of decimal128
            return pa.decimal128(digits, scale) if narrow else pa.decimal256(digits, scale)
        return _LOGICAL.get((kind, logical), wire) if isinstance(logical, str) else wire


def _arrow(field: Field) -> pa.Field:
    column = field.column
    return pa.field(field.name, column.type, nullable=column.nullable or column.kind == "null")
