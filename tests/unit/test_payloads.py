"""Payloads: each type by its own schema, wrong fields named by path, a user's type passed unharmed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.catalog import LocalSchemas
from schemas.envelope import CONTROL_TYPES, DATA_TYPES, LONG_MAX, PAYLOAD_BYTES_MAX
from schemas.errors import InvalidEvent, Undecodable, UnknownSchemaId, UnknownType, WireError
from schemas.payloads import PayloadCodec, check_payload

READING = {
    "type": "record",
    "name": "reading",
    "namespace": "sluicegate.payload",
    "fields": [
        {"name": "sensor", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "default": 0},
        {"name": "unit", "type": {"type": "enum", "name": "Unit", "symbols": ["C", "F"]}, "default": "C"},
        {"name": "digest", "type": {"type": "fixed", "name": "D", "size": 2}, "default": "\u0000\u00ff"},
        {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
        {
            "name": "place",
            "type": [
                "null",
                {"type": "record", "name": "Place", "fields": [{"name": "lat", "type": "double"}]},
            ],
            "default": None,
        },
        {"name": "either", "type": ["null", "long", "string", "boolean"], "default": None},
        {"name": "again", "type": ["null", "Place"], "default": None},
    ],
}
SOURCE = LocalSchemas({"sluicegate.payload.reading": orjson.dumps(READING).decode()})
CODEC = PayloadCodec(SOURCE)
EXAMPLES: dict[str, dict[str, Any]] = {
    "open": {"labels": {"branch": "main"}, "title": "build", "idle_timeout_ms": 5, "total_timeout_ms": 0},
    "reset": {"from_seq": 3, "reason": "retry"},
    "gap": {"from_seq": 3, "to_seq": 4, "count": 2, "reason": "missing_input"},
    "end": {"reason": "upstream_error", "message": "no", "exit_code": 2, "events": 4, "bytes": 9},
    "cancel": {"reason": "", "by": "me"},
    "progress": {"done": 3.0, "total": 9.0, "unit": "tests", "message": "x"},
    "log": {"line": "é\x00\x1b[0m", "level": "error", "stream": "stderr", "partial": False},
    "token": {
        "text": " a", "role": "assistant", "index": 0, "channel": "tool", "call_id": "c", "tool": "find",
    },
    "usage": {
        "provider": "p", "model": "m", "calls": 1, "errors": 0, "input_tokens": 3, "output_tokens": 4,
        "cost_nanos": 5_000, "latency_ms": 12, "provenance": "provider", "cached_input_tokens": 2,
        "cache_write_tokens": None, "reasoning_tokens": 1,
    },
    "state": {"name": "phase", "value_json": '{"a":1}'},
    "media": {"mime": "image/png", "index": 1, "data": b"\x00\xff", "reference": ""},
    "structured": {"schema_name": "s", "json": "{}", "complete": False, "problem": "/a"},
    "message": {"from": "a", "text": "b"},
    "custom": {"name": "n", "json": "null"},
}  # fmt: skip


def test_there_is_an_example_of_every_type() -> None:
    assert set(EXAMPLES) == {*CONTROL_TYPES, *DATA_TYPES}


@pytest.mark.parametrize("type_name", sorted(EXAMPLES))
def test_a_full_payload_comes_back_as_it_was_given(type_name: str) -> None:
    body, schema_id = CODEC.encode(type_name, EXAMPLES[type_name])
    assert CODEC.decode(schema_id, body) == EXAMPLES[type_name]
    assert CODEC.subject_of(schema_id) == f"sluicegate.payload.{type_name}"


def test_absent_fields_take_their_defaults() -> None:
    body, schema_id = CODEC.encode("usage", {"provider": "p"})
    assert CODEC.decode(schema_id, body) == {
        "provider": "p", "model": "", "calls": 1, "errors": 0, "input_tokens": 0, "output_tokens": 0,
        "cost_nanos": None, "latency_ms": 0, "provenance": "", "cached_input_tokens": None,
        "cache_write_tokens": None, "reasoning_tokens": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("type_name", "fields", "path", "words"),
    [
        ("log", {}, "payload.line", "is missing"),
        ("log", {"line": 5}, "payload.line", "must be a string, is 5"),
        ("log", {"line": None}, "payload.line", "must be a string"),
        ("log", {"line": "\ud800"}, "payload.line", "lone surrogates"),
        ("log", {"line": "x", "lvl": "info"}, "payload.lvl", "it has line, level, stream, partial"),
        ("log", {"line": "x", "stream": "stdoutt"}, "payload.stream", "'stdout'"),
        ("log", {"line": "x", "level": "l" * 33}, "payload.level", "at most 32"),
        ("progress", {"done": "3"}, "payload.done", "must be a number"),
        ("progress", {"done": True}, "payload.done", "must be a number"),
        ("progress", {"done": 10**400}, "payload.done", "double"),
        ("progress", {"done": 1, "total": "x"}, "payload.total", "must be a number"),
        ("usage", {"provider": "p", "calls": 1.5}, "payload.calls", "whole number"),
        ("usage", {"provider": "p", "calls": True}, "payload.calls", "whole number"),
        ("usage", {"provider": "p", "calls": LONG_MAX + 1}, "payload.calls", str(LONG_MAX)),
        ("usage", {"provider": "p", "input_tokens": -1}, "payload.input_tokens", "not be negative"),
        ("usage", {"provider": "p", "cost_nanos": -1}, "payload.cost_nanos", "not be negative"),
        ("usage", {"provider": "p\x00"}, "payload.provider", "NUL"),
        ("usage", {"provider": "p" * 129}, "payload.provider", "at most 128"),
        ("usage", {"provider": "p", "model": "a\nb"}, "payload.model", "control characters"),
        ("end", {"reason": "done"}, "payload.reason", "'completed'"),
        ("end", {"reason": "completed", "exit_code": 2**31}, "payload.exit_code", "from -2147483648"),
        ("open", {"labels": {"a": 1}}, "payload.labels.a", "must be a string"),
        ("open", {"labels": []}, "payload.labels", "must be an object"),
        ("open", {"labels": {str(n): "" for n in range(33)}}, "payload.labels", "at most 32"),
        ("open", {"idle_timeout_ms": -1}, "payload.idle_timeout_ms", "not be negative"),
        ("open", {"title": "t" * 257}, "payload.title", "at most 256"),
        ("reset", {"from_seq": -1}, "payload.from_seq", "not be negative"),
        ("media", {"mime": "a/b", "data": "not base64!"}, "payload.data", "base64"),
        ("media", {"mime": "a/b", "data": [1]}, "payload.data", "base64"),
        ("token", {"text": "x" * (PAYLOAD_BYTES_MAX + 1)}, "payload", "at most"),
        ("reading", {"sensor": "s", "unit": "K"}, "payload.unit", "one of C, F"),
        ("reading", {"sensor": "s", "digest": "AAAA"}, "payload.digest", "must be 2 bytes, is 3"),
        ("reading", {"sensor": "s", "tags": ["a", 1]}, "payload.tags[1]", "must be a string"),
        ("reading", {"sensor": "s", "place": {"lat": "x"}}, "payload.place.lat", "must be a number"),
        ("reading", {"sensor": "s", "place": {}}, "payload.place.lat", "is missing"),
        ("reading", {"sensor": "s", "either": 1.5}, "payload.either", "one of the union"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(
    type_name: str, fields: dict[str, object], path: str, words: str
) -> None:
    with pytest.raises(InvalidEvent) as caught:
        CODEC.encode(type_name, fields)
    assert caught.value.field == path
    assert words in caught.value.problem
    assert len(str(caught.value)) < 400


def test_a_type_that_nobody_registered_is_named() -> None:
    with pytest.raises(UnknownType, match="'jog'") as caught:
        CODEC.encode("jog", {})
    assert "sluicegate.payload.<type>" in caught.value.remedy
    with pytest.raises(InvalidEvent, match="type"):
        CODEC.encode("../x", {})


def test_a_users_type_passes_with_all_that_avro_has() -> None:
    fields = {
        "sensor": "s", "at": 5, "unit": "F", "digest": b"\x01\x02", "tags": ["a"], "place": {"lat": 1.5},
        "either": "text", "again": {"lat": 2.0},
    }  # fmt: skip
    body, schema_id = CODEC.encode("reading", fields)
    assert CODEC.decode(schema_id, body) == fields
    body, schema_id = CODEC.encode("reading", {"sensor": "s"})
    assert CODEC.decode(schema_id, body)["digest"] == b"\x00\xff"


def test_a_users_type_may_be_registered_while_we_run() -> None:
    source = LocalSchemas()
    codec = PayloadCodec(source)
    with pytest.raises(UnknownType):
        codec.encode("later", {"a": 1})
    source.register(
        "sluicegate.payload.later",
        '{"type":"record","name":"later","namespace":"sluicegate.payload","fields":[{"name":"a","type":"int"}]}',
    )
    body, schema_id = codec.encode("later", {"a": 1})
    assert PayloadCodec(source).decode(schema_id, body) == {"a": 1}


def test_a_payload_of_an_unknown_schema_is_named() -> None:
    with pytest.raises(UnknownSchemaId, match="schema id 3 "):
        CODEC.decode(3, b"")


def test_a_payload_with_bytes_too_many_is_refused() -> None:
    body, schema_id = CODEC.encode("log", {"line": "x"})
    for spoiled in (body + b"\x00", body[:-1], b""):
        with pytest.raises(Undecodable):
            CODEC.decode(schema_id, spoiled)


@given(st.binary(max_size=100), st.sampled_from(sorted(EXAMPLES)))
def test_no_bytes_raise_anything_but_a_wire_error(body: bytes, type_name: str) -> None:
    _, schema_id = CODEC.encode(type_name, EXAMPLES[type_name])
    try:
        CODEC.decode(schema_id, body)
    except WireError:
        return


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from([*sorted(EXAMPLES), "reading"]),
    st.dictionaries(
        st.sampled_from(["line", "done", "reason", "labels", "sensor", "data", "text", "place", "x"]),
        json_values,
        max_size=5,
    ),
)
def test_any_json_is_written_or_its_path_is_named(type_name: str, fields: dict[str, Any]) -> None:
    try:
        body, schema_id = CODEC.encode(type_name, fields)
    except InvalidEvent as error:
        path = error.field
    else:
        CODEC.decode(schema_id, body)
        return
    assert path.startswith("payload")


def test_rules_can_be_asked_of_what_came_by_another_way() -> None:
    check_payload("end", {"reason": "completed"})
    check_payload("reading", {"anything": object()})
    with pytest.raises(InvalidEvent, match=r"payload\.reason"):
        check_payload("end", {"reason": "whatever"})
