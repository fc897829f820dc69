"""Hostile schemas are refused before anything is decoded with them."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.catalog import LocalSchemas, subjects
from schemas.errors import Undecodable
from schemas.limits import checked_schema
from schemas.payloads import PayloadCodec


def record(*fields: Any, name: str = "sluicegate.payload.evil") -> dict[str, Any]:
    return {
        "type": "record",
        "name": name,
        "fields": [{"name": f"f{place}", "type": field} for place, field in enumerate(fields)],
    }


def nested(depth: int) -> Any:
    return "int" if depth == 0 else record(nested(depth - 1), name=f"n{depth}")


def doubling(levels: int, width: int) -> list[Any]:
    fields: list[Any] = [record("null", name="L0")]
    fields += [record(*[f"L{level - 1}"] * width, name=f"L{level}") for level in range(1, levels)]
    return fields


EMPTY = {"type": "record", "name": "e", "fields": []}
HOSTILE = {
    "recursion": (
        {**record(), "fields": [{"name": "a", "type": ["null", "sluicegate.payload.evil"]}]},
        "itself",
    ),
    "array of nulls": (record({"type": "array", "items": "null"}), "values a byte"),
    "array of empty records": (record({"type": "array", "items": EMPTY}), "values a byte"),
    "array of fixed of no bytes": (
        record({"type": "array", "items": {"type": "fixed", "name": "z", "size": 0}}),
        "values a byte",
    ),
    "array of records of many nulls": (
        record({"type": "array", "items": record("int", *["null"] * 40, name="r")}),
        "values a byte",
    ),
    "map of wide records": (
        record({"type": "map", "values": record(*["null"] * 40, name="r")}),
        "values a byte",
    ),
    "deep": (nested(20), "nested deeper"),
    "doubling": (record(*doubling(30, 2)), "unfolds into"),
    "wide doubling": (record(*doubling(12, 100)), "unfolds into"),
    "reference": (record("other.Type"), "is not defined in it"),
    "defined twice": (record(record("int", name="r"), record("long", name="r")), "defined twice"),
    "empty union": (record([]), "empty union"),
    "no record": ({"type": "string"}, "not a record"),
    "no schema": (["null"], "not a record"),
    "no type": ({"type": "record", "name": "x", "fields": [{"name": "a"}]}, "malformed"),
    "negative size": (
        record({"type": "array", "items": {"type": "fixed", "name": "z", "size": -1}}),
        "values",
    ),
    "unknown primitive": (record("integer"), "is not defined in it"),
    "large": ({**record("int"), "doc": "x" * 70_000}, "schema of"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_is_refused_in_words_and_at_once(name: str) -> None:
    schema, words = HOSTILE[name]
    began = time.perf_counter()
    with pytest.raises(Undecodable, match=words) as caught:
        checked_schema(orjson.dumps(schema).decode(), 9)
    assert time.perf_counter() - began < 5  # one that unfolds would take minutes, and all memory
    assert "schema id 9" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[" * 100_000, '"string"', '{"type":{"type":{}}}', "\ud800"]
)
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(Undecodable):
        checked_schema(text, 1)


@pytest.mark.parametrize("subject", sorted(subjects()))
def test_our_own_schemas_are_within_the_limits(subject: str) -> None:
    checked_schema(subjects()[subject], 1)


def test_logical_types_are_dropped_but_not_from_defaults() -> None:
    schema = record({"type": "long", "logicalType": "timestamp-micros"})
    schema["fields"][0]["default"] = 5
    schema["fields"].append(
        {"name": "m", "type": {"type": "map", "values": "string"}, "default": {"logicalType": "kept"}}
    )
    found = checked_schema(orjson.dumps(schema).decode(), 1)
    assert found["fields"][0]["type"] == {"type": "long"}
    assert found["fields"][1]["default"] == {"logicalType": "kept"}


def test_the_worst_schema_that_passes_stays_within_memory() -> None:
    # One record of one byte an item, the most that the rule lets through, over a full MiB.
    source = LocalSchemas({"sluicegate.payload.evil": orjson.dumps(worst()).decode()})
    codec = PayloadCodec(source)
    items = 900_000
    body = varint(items) + b"\x00" * items + b"\x00"
    tracemalloc.start()
    assert len(codec.decode(source.id_of("sluicegate.payload.evil"), body)["f0"]) == items
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 500 * 1_048_576


def worst() -> dict[str, Any]:
    return record({"type": "array", "items": record("int", "null", "null", name="r")})


def varint(value: int) -> bytes:
    value <<= 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


schemas = st.recursive(
    st.sampled_from(["null", "int", "string", "bytes", "double", "boolean", "other", 5, None]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.fixed_dictionaries({"type": st.just("map"), "values": inner}),
        st.lists(inner, max_size=4).map(lambda fields: record(*fields, name="r")),
        st.fixed_dictionaries({"type": inner}),
    ),
    max_leaves=20,
)


@given(schemas)
def test_any_json_is_a_schema_or_is_refused(schema: Any) -> None:
    try:
        checked_schema(orjson.dumps(record(schema)).decode(), 1)
    except Undecodable:
        return
