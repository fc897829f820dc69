"""Why one version of a record schema cannot be read as another, in words that name the field.

The registry decides; this says it where a registry only answers no, and where there is none to ask.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from schemas.limits import without_logical_types

# What a reader of the second type takes from a writer of the first (Avro 1.12, schema resolution).
_PROMOTIONS: Final = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}


def problems_between(one: str, other: str) -> list[str]:
    """Return why the two (JSON texts) are not compatible both ways; empty = they are (FULL)."""
    first, second = (without_logical_types(orjson.loads(text)) for text in (one, other))
    forth = _problems(first, second, "")
    back = [problem for problem in _problems(second, first, "") if problem not in forth]
    return forth + back


def _problems(writer: Any, reader: Any, path: str) -> list[str]:  # noqa: PLR0911 - one a rule
    """Return why ``reader`` cannot read what ``writer`` wrote."""
    if isinstance(writer, list):
        return [problem for branch in writer for problem in _problems(branch, reader, path)]
    if isinstance(reader, list):
        if any(not _problems(writer, branch, path) for branch in reader):
            return []
        return [f"{_at(path)}{_kind(writer)} is in no branch of the union"]
    one, other = _kind(writer), _kind(reader)
    if one != other:
        if other in _PROMOTIONS.get(one, ()):
            return []
        return [f"{_at(path)}type {one} cannot be read as {other}"]
    if one == "record":
        return _record_problems(writer, reader, path)
    return _other_problems(one, writer, reader, path)


def _other_problems(kind: str, writer: Any, reader: Any, path: str) -> list[str]:
    if kind == "array":
        return _problems(writer["items"], reader["items"], f"{path}[]")
    if kind == "map":
        return _problems(writer["values"], reader["values"], f"{path}{{}}")
    if kind == "enum":
        gone = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
        if gone and "default" not in reader:
            return [f"{_at(path)}symbol {gone[0]} is gone and the enum has no default"]
    if kind == "fixed" and writer["size"] != reader["size"]:
        return [f"{_at(path)}size {writer['size']} cannot be read as {reader['size']}"]
    return []


def _record_problems(writer: dict[str, Any], reader: dict[str, Any], path: str) -> list[str]:
    if writer["name"].rpartition(".")[2] != reader["name"].rpartition(".")[2]:
        return [f"{_at(path)}record {writer['name']} cannot be read as {reader['name']}"]
    written = {field["name"]: field for field in writer["fields"]}
    found = []
    for field in reader["fields"]:
        inner = f"{path}.{field['name']}" if path else field["name"]
        if field["name"] in written:
            found += _problems(written[field["name"]]["type"], field["type"], inner)
        elif "default" not in field:
            found.append(f"{inner}: is not in both versions and has no default")
    return found


def _kind(schema: Any) -> str:
    if isinstance(schema, str):
        return schema
    kind = schema["type"]
    return kind if isinstance(kind, str) else _kind(kind)


def _at(path: str) -> str:
    return f"{path}: " if path else ""
