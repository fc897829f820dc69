"""What a schema from a registry may be before anything is decoded with it.

A hostile schema costs nothing to register and can make a small body unfold into gigabytes: recursion,
items of no width in an array whose declared count is huge, or records nested so that each level doubles.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from schemas.errors import Undecodable

SCHEMA_BYTES_MAX: Final = 64 * 1024  # ours are under 4 KiB
DEPTH_MAX: Final = 16
VALUES_MAX: Final = 4_096  # values of one record outside arrays and maps
# In an array or map each byte of the body may become this many values at most, a record counting as five
# (a dict's size). So a body of 1 MiB unfolds into some hundred MiB at worst, not into all there is.
VALUES_PER_BYTE_MAX: Final = 8
_RECORD_VALUES: Final = 5

_WIDTHS: Final = {
    "null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1,
}  # fmt: skip


def checked_schema(text: str, schema_id: int) -> dict[str, Any]:
    """Parse a record schema from a registry and return it without logical types.

    Logical types are dropped so that a time stays the integer that it is on the wire.

    Raises:
        Undecodable: the schema is not JSON, not a record, or unfolds beyond the limits.
    """
    if len(text) > SCHEMA_BYTES_MAX:
        raise Undecodable(f"schema of {len(text)} bytes, at most {SCHEMA_BYTES_MAX}", schema_id=schema_id)
    try:
        schema = orjson.loads(text)
        if not isinstance(schema, dict) or schema.get("type") != "record":
            raise Undecodable("schema is not a record", schema_id=schema_id)
        values, _ = _Measure().of(schema, "", 0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Undecodable(f"schema is malformed: {error!r}", schema_id=schema_id) from None
    except _Refused as refused:
        raise Undecodable(f"schema is refused: {refused}", schema_id=schema_id) from None
    if values > VALUES_MAX:
        raise Undecodable(
            f"schema is refused: unfolds into {values} values, at most {VALUES_MAX}", schema_id=schema_id
        )
    plain = without_logical_types(schema)
    assert isinstance(plain, dict)
    return plain


def without_logical_types(schema: Any) -> Any:
    """Return a copy of a schema in which every type is what it is on the wire."""
    if isinstance(schema, dict):
        return {
            name: part if name in ("default", "doc") else without_logical_types(part)
            for name, part in schema.items()
            if name != "logicalType"
        }
    if isinstance(schema, list):
        return [without_logical_types(part) for part in schema]
    return schema


class _Refused(Exception):
    """Why a schema may not be used."""


class _Measure:
    """Walks a schema once; named types are measured where they are defined.

    ``of`` returns (values, excess): values of one datum outside arrays, and values - limit x bytes of the
    datum that unfolds worst. The excess adds up over fields, so an item is safe when its own is not positive.
    """

    def __init__(self) -> None:
        self._named: dict[str, tuple[int, int] | None] = {}

    def of(self, schema: Any, namespace: str, depth: int) -> tuple[int, int]:  # noqa: PLR0911 - one a form
        if depth > DEPTH_MAX:
            raise _Refused(f"nested deeper than {DEPTH_MAX}")
        if isinstance(schema, str):
            return self._name(schema, namespace)
        if isinstance(schema, list):
            parts = [self.of(part, namespace, depth + 1) for part in schema]
            if not parts:
                raise _Refused("empty union")
            return max(p[0] for p in parts), max(p[1] for p in parts) - VALUES_PER_BYTE_MAX
        kind = schema["type"]
        if kind == "array":
            return self._repeated(schema["items"], namespace, depth, "array", key_bytes=0)
        if kind == "map":
            return self._repeated(schema["values"], namespace, depth, "map", key_bytes=1)
        if kind in ("record", "error"):
            return self._record(schema, namespace, depth)
        if kind == "enum":
            return self._define(schema, namespace, (1, 1 - VALUES_PER_BYTE_MAX))
        if kind == "fixed":
            return self._define(schema, namespace, (1, 1 - VALUES_PER_BYTE_MAX * int(schema["size"])))
        return self.of(kind, namespace, depth + 1)

    def _name(self, name: str, namespace: str) -> tuple[int, int]:
        if name in _WIDTHS:
            return 1, 1 - VALUES_PER_BYTE_MAX * _WIDTHS[name]
        full = _full_name(name, namespace)
        if full not in self._named:
            raise _Refused(f"type {full!r} is not defined in it (references are not supported)")
        measured = self._named[full]
        if measured is None:
            raise _Refused(f"type {full!r} holds itself")
        return measured

    def _repeated(
        self, item: Any, namespace: str, depth: int, what: str, *, key_bytes: int
    ) -> tuple[int, int]:
        _, excess = self.of(item, namespace, depth + 1)
        if excess - VALUES_PER_BYTE_MAX * key_bytes > 0:
            raise _Refused(f"items of a {what} unfold into more than {VALUES_PER_BYTE_MAX} values a byte")
        return 1, 1 - VALUES_PER_BYTE_MAX

    def _record(self, schema: dict[str, Any], namespace: str, depth: int) -> tuple[int, int]:
        full = _full_name(schema["name"], schema.get("namespace", namespace))
        self._define(schema, namespace, None)
        inner = full.rpartition(".")[0]
        parts = [self.of(field["type"], inner, depth + 1) for field in schema["fields"]]
        measured = (
            _RECORD_VALUES + sum(part[0] for part in parts),
            _RECORD_VALUES + sum(part[1] for part in parts),
        )
        self._named[full] = measured
        return measured

    def _define(
        self, schema: dict[str, Any], namespace: str, measured: tuple[int, int] | None
    ) -> tuple[int, int]:
        full = _full_name(schema["name"], schema.get("namespace", namespace))
        if full in self._named:
            raise _Refused(f"type {full!r} is defined twice")
        self._named[full] = measured
        return measured or (0, 0)


def _full_name(name: str, namespace: str | None) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"
