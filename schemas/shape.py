"""What of a schema a reader can notice: registries return texts that differ in the rest."""

from __future__ import annotations

from typing import Any, Final

_KEPT: Final = ("default", "symbols", "size")


def shape_of(schema: Any, namespace: str = "") -> Any:  # noqa: PLR0911 - one a form
    """Return a schema without docs, aliases and logical types, with full names and nothing spelt twice.

    Two schemas of one shape read and write the same bytes as the same values.
    """
    if isinstance(schema, list):
        return [shape_of(branch, namespace) for branch in schema]
    if isinstance(schema, str):
        return schema if schema in _PRIMITIVES else _full_name(schema, namespace)
    kind = schema["type"]
    if kind in ("record", "error"):
        full = _full_name(schema["name"], schema.get("namespace", namespace))
        inner = full.rpartition(".")[0]
        return {
            "type": "record",
            "name": full,
            "fields": [_field(field, inner) for field in schema["fields"]],
        }
    if kind in ("enum", "fixed"):
        kept = {part: schema[part] for part in _KEPT if part in schema}
        return {"type": kind, "name": _full_name(schema["name"], schema.get("namespace", namespace)), **kept}
    if kind == "array":
        return {"type": kind, "items": shape_of(schema["items"], namespace)}
    if kind == "map":
        return {"type": kind, "values": shape_of(schema["values"], namespace)}
    return shape_of(kind, namespace)


def _field(field: dict[str, Any], namespace: str) -> dict[str, Any]:
    made = {"name": field["name"], "type": shape_of(field["type"], namespace)}
    return {**made, "default": field["default"]} if "default" in field else made


def _full_name(name: str, namespace: str | None) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"


_PRIMITIVES: Final = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
