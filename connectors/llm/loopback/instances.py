"""A value that a JSON schema takes: what a made-up tool call, or a made-up structured answer, is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

_DEPTH_MAX: Final = 16  # a schema may name itself
_STRINGS: Final = ("river", "gate", "café", "harbour", "signal")


def instance_of(schema: Mapping[str, Any], rng: random.Random) -> Any:
    """Make a value of types, enums, constants, bounds and local references; other words are not heeded."""
    return _made(schema, schema, rng, 0)


def _made(schema: Any, root: Mapping[str, Any], rng: random.Random, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _DEPTH_MAX:
        return None
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return rng.choice(schema["enum"])
    for word in ("anyOf", "oneOf", "allOf"):
        if schema.get(word):
            return _made(schema[word][0], root, rng, depth + 1)
    if isinstance(schema.get("$ref"), str):
        return _made(_found(schema["$ref"], root), root, rng, depth + 1)
    return _of_type(schema, root, rng, depth)


def _of_type(  # noqa: PLR0911  # a return a type
    schema: Mapping[str, Any], root: Mapping[str, Any], rng: random.Random, depth: int
) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match str(kind[0] if isinstance(kind, list) and kind else kind).lower():  # Gemini writes them in capitals
        case "object":
            properties = schema.get("properties") or {}
            return {name: _made(each, root, rng, depth + 1) for name, each in properties.items()}
        case "array":
            count = max(2, int(schema.get("minItems", 2))) if depth < _DEPTH_MAX else 0
            count = min(count, int(schema.get("maxItems", count)), 16)
            return [_made(schema.get("items", {}), root, rng, depth + 1) for _ in range(count)]
        case "integer":
            least = int(schema.get("minimum", 0))
            return rng.randint(least, max(least, int(schema.get("maximum", least + 100))))
        case "number":
            least_number = float(schema.get("minimum", 0))
            most_number = max(least_number, float(schema.get("maximum", least_number + 100)))
            return round(rng.uniform(least_number, most_number), 2)
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
        case _:
            text = rng.choice(_STRINGS)
            return text.ljust(int(schema.get("minLength", 0)), "x")[: int(schema.get("maxLength", 64))]


def _found(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        found = found.get(part) if isinstance(found, dict) else None
    return found
