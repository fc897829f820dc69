"""Changes of a schema: what keeps both readers alive passes, what breaks one is named by field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from schemas.catalog import subjects
from schemas.changes import problems_between

if TYPE_CHECKING:
    from collections.abc import Callable

BASE: dict[str, Any] = {
    "type": "record",
    "name": "R",
    "namespace": "n",
    "fields": [
        {"name": "a", "type": "string"},
        {"name": "b", "type": "long", "default": 0},
        {"name": "u", "type": ["null", "int"], "default": None},
        {"name": "l", "type": {"type": "array", "items": "string"}, "default": []},
        {"name": "m", "type": {"type": "map", "values": "long"}, "default": {}},
        {"name": "f", "type": {"type": "fixed", "name": "F", "size": 4}},
        {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["X", "Y"]}},
        {"name": "r", "type": {"type": "record", "name": "I", "fields": [{"name": "x", "type": "int"}]}},
    ],
}


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    schema = orjson.loads(orjson.dumps(BASE))
    change(schema)
    return orjson.dumps(schema).decode()


def field(schema: dict[str, Any], name: str) -> dict[str, Any]:
    return next(field for field in schema["fields"] if field["name"] == name)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: None,
        lambda s: s.update(doc="other words"),
        lambda s: s["fields"].append({"name": "new", "type": "string", "default": ""}),
        lambda s: s["fields"].remove(field(s, "b")),
        lambda s: s["fields"].reverse(),
        lambda s: field(s, "b").update(default=7),
        lambda s: field(s, "b").update(type={"type": "long", "logicalType": "timestamp-micros"}),
    ],
)
def test_a_change_that_both_sides_survive_passes(change: Callable[[dict[str, Any]], object]) -> None:
    assert problems_between(orjson.dumps(BASE).decode(), changed(change)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["fields"].append({"name": "new", "type": "string"}), "new: is not in both"),
        (lambda s: s["fields"].remove(field(s, "a")), "a: is not in both versions and has no default"),
        (lambda s: field(s, "a").update(name="z", default=""), "a: is not in both"),
        (lambda s: field(s, "b").update(type="string"), "b: type long cannot be read as string"),
        (lambda s: field(s, "b").update(type="int"), "b: type long cannot be read as int"),
        (lambda s: field(s, "b").update(type="double"), "b: type double cannot be read as long"),
        (lambda s: field(s, "u").update(type=["null", "int", "string"]), "u: string is in no branch"),
        (lambda s: field(s, "u").update(type="int"), "u: type null cannot be read as int"),
        (lambda s: field(s, "l")["type"].update(items="long"), "l[]: type string cannot be read as long"),
        (lambda s: field(s, "m")["type"].update(values="bytes"), "m{}: type long cannot be read as bytes"),
        (lambda s: field(s, "f")["type"].update(size=8), "f: size 4 cannot be read as 8"),
        (lambda s: field(s, "e")["type"].update(symbols=["X"]), "e: symbol Y is gone"),
        (
            lambda s: field(s, "r")["type"]["fields"].append({"name": "y", "type": "int"}),
            "r.y: is not in both",
        ),
        (lambda s: s.update(name="Q"), "record R cannot be read as Q"),
    ],
)
def test_a_change_that_breaks_one_side_is_named(
    change: Callable[[dict[str, Any]], object], words: str
) -> None:
    for one, other in (
        (orjson.dumps(BASE).decode(), changed(change)),
        (changed(change), orjson.dumps(BASE).decode()),
    ):
        problems = problems_between(one, other)
        assert any(words in problem or "cannot be read" in problem for problem in problems), problems
    assert any(words in p for p in problems_between(orjson.dumps(BASE).decode(), changed(change)))


@pytest.mark.parametrize("subject", sorted(subjects()))
def test_a_schema_is_compatible_with_itself(subject: str) -> None:
    assert problems_between(subjects()[subject], subjects()[subject]) == []
