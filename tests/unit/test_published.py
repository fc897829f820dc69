"""What a producer may POST, and what a client is shown of it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.catalog import LocalSchemas
from schemas.envelope import RESERVED_TYPES, TIME_MAX, Event
from schemas.errors import ContractError, InvalidEvent, UnknownType
from schemas.payloads import PayloadCodec
from schemas.published import (
    event_from_json,
    event_to_json,
    published_from_shown,
    time_from_text,
    time_text,
)

from .test_payloads import EXAMPLES

CLASHING = (
    '{"type":"record","name":"clashing","namespace":"sluicegate.payload","fields":['
    '{"name":"type","type":"string"},{"name":"seq","type":"long"},{"name":"time","type":"string"},'
    '{"name":"other","type":{"type":"array","items":"bytes"},"default":[]}]}'
)
CODEC = PayloadCodec(LocalSchemas({"sluicegate.payload.clashing": CLASHING}))
NOW = 1_795_000_000_123_456
LOG = {"type": "log", "payload": {"line": "x"}}


def read(obj: object, **changes: Any) -> Event:
    options: dict[str, Any] = {
        "tenant": "t",
        "stream_id": "s",
        "kind": "log",
        "payloads": CODEC,
        "now_us": NOW,
    }
    return event_from_json(obj, **(options | changes))


def test_the_least_that_can_be_said_is_a_type_and_its_payload() -> None:
    event = read(LOG)
    assert (event.tenant, event.stream_id, event.kind, event.type) == ("t", "s", "log", "log")
    assert (event.seq, event.time, event.epoch, event.attempt) == (-1, NOW, 0, 0)
    assert event.source == event.request_id == event.task_id == event.upstream_id == event.traceparent == ""
    assert read(LOG).event_id != event.event_id


def test_every_field_can_be_given() -> None:
    said = {
        "event_id": "e", "seq": 7, "kind": "llm", "type": "token", "time": "2026-11-23T01:02:03.000004+01:00",
        "source": "a", "request_id": "b", "task_id": "c", "upstream_id": "d",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "epoch": 2, "attempt": 3,
    }  # fmt: skip
    event = read({**said, "payload": {"text": "hi"}})
    assert event.time == time_from_text("2026-11-23T00:02:03.000004Z")
    for field, value in said.items():
        if field != "time":
            assert getattr(event, field) == value
    assert CODEC.decode(event.payload_schema, event.payload)["text"] == "hi"


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        (None, "event"),
        ([], "event"),
        ("x", "event"),
        ({}, "type"),
        ({"type": 5}, "type"),
        ({"type": None}, "type"),
        ({**LOG, "lvl": 1}, "lvl"),
        ({**LOG, "tenant": "t"}, "tenant"),
        ({**LOG, "stream_id": "s"}, "stream_id"),
        ({**LOG, "payload": []}, "payload"),
        ({**LOG, "payload": None}, "payload"),
        ({**LOG, "payload": {}}, "payload.line"),
        ({**LOG, "event_id": ""}, "event_id"),
        ({**LOG, "event_id": None}, "event_id"),
        ({**LOG, "event_id": "x" * 65}, "event_id"),
        ({**LOG, "seq": "1"}, "seq"),
        ({**LOG, "seq": True}, "seq"),
        ({**LOG, "seq": 1.0}, "seq"),
        ({**LOG, "seq": -2}, "seq"),
        ({**LOG, "seq": 2**63}, "seq"),
        ({**LOG, "time": "yesterday"}, "time"),
        ({**LOG, "time": "2026-11-23T00:00:00"}, "time"),
        ({**LOG, "time": "0001-01-01T00:00:00+14:00"}, "time"),
        ({**LOG, "time": "1969-12-31T23:59:59Z"}, "time"),
        ({**LOG, "time": 1.5}, "time"),
        ({**LOG, "time": None}, "time"),
        ({**LOG, "time": TIME_MAX + 1}, "time"),
        ({**LOG, "kind": ""}, "kind"),
        ({**LOG, "kind": 1}, "kind"),
        ({**LOG, "kind": "A/B"}, "kind"),
        ({**LOG, "source": None}, "source"),
        ({**LOG, "source": "a\u0000"}, "source"),
        ({**LOG, "traceparent": "nonsense"}, "traceparent"),
        ({**LOG, "epoch": 2**31}, "epoch"),
        ({**LOG, "attempt": -1}, "attempt"),
        *[({"type": name}, "type") for name in RESERVED_TYPES],
    ],
)
def test_a_wrong_field_is_named(obj: object, field: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        read(obj)
    assert caught.value.field == field


def test_a_kind_must_be_said_somewhere() -> None:
    with pytest.raises(InvalidEvent, match="kind: is missing"):
        read(LOG, kind=None)
    assert read({**LOG, "kind": "job"}, kind=None).kind == "job"


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(UnknownType, match="'jog'"):
        read({"type": "jog"})


@pytest.mark.parametrize("type_name", sorted(EXAMPLES))
def test_what_a_client_is_shown_can_be_published_again(type_name: str) -> None:
    if type_name in RESERVED_TYPES:
        return
    fields = orjson.loads(orjson.dumps(EXAMPLES[type_name], default=lambda data: "AP8="))
    event = read({"type": type_name, "payload": fields})
    shown = orjson.loads(orjson.dumps(event_to_json(event, CODEC)))
    assert list(shown)[:4] == ["type", "seq", "time", "event_id"]
    assert {**shown, **fields} == shown
    assert read(published_from_shown(shown)) == event


def test_payload_fields_that_clash_with_the_envelope_are_kept_apart() -> None:
    fields = {"type": "inner", "seq": 9, "time": "noon", "other": ["AAE="]}
    event = read({"type": "clashing", "payload": fields})
    shown = event_to_json(event, CODEC)
    assert (shown["type"], shown["seq"], shown["payload.type"], shown["payload.seq"]) == (
        "clashing",
        -1,
        "inner",
        9,
    )
    assert shown["other"] == ["AAE="]
    assert read(published_from_shown(shown)) == event


@given(st.integers(0, TIME_MAX))
def test_a_time_as_text_is_exact(time_us: int) -> None:
    text = time_text(time_us)
    assert len(text) == 27
    assert text.endswith("Z")
    assert time_from_text(text) == time_us


CLOUD = {
    "specversion": "1.0", "id": "e", "source": "/build/7", "type": "sluicegate.log.log.v1", "subject": "s",
    "time": "2026-11-23T00:00:00Z", "seq": 4, "requestid": "r", "taskid": "k", "upstreamid": "u",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "epoch": 1, "attempt": 2,
    "datacontenttype": "application/json; charset=utf-8", "data": {"line": "x"}, "someextension": "dropped",
}  # fmt: skip


def test_a_cloud_event_maps_attribute_by_attribute() -> None:
    event = read(CLOUD, kind="job")
    assert (event.event_id, event.source, event.kind, event.type) == ("e", "/build/7", "log", "log")
    assert (event.seq, event.request_id, event.task_id, event.upstream_id) == (4, "r", "k", "u")
    assert (event.epoch, event.attempt, event.traceparent) == (1, 2, CLOUD["traceparent"])
    assert event.time == time_from_text("2026-11-23T00:00:00Z")


def test_a_cloud_event_may_hold_its_data_as_json_text_and_leave_out_the_subject() -> None:
    said = {name: value for name, value in CLOUD.items() if name != "subject"}
    assert read({**said, "data": '{"line":"x"}'}) == read(CLOUD)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"id": ""}, "id"),
        ({"id": 5}, "id"),
        ({"source": None}, "source"),
        ({"type": "com.example.thing"}, "type"),
        ({"type": "sluicegate.log.log.v2"}, "type"),
        ({"subject": "other"}, "subject"),
        ({"datacontenttype": "text/xml"}, "datacontenttype"),
        ({"data_base64": "AAE="}, "data_base64"),
        ({"data": "{"}, "data"),
        ({"data": [1]}, "data"),
        ({"data": {"lin": 1}}, "payload.line"),
        ({"seq": "4"}, "seq"),
    ],
)
def test_a_wrong_attribute_of_a_cloud_event_is_named(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        read({**CLOUD, **change})
    assert caught.value.field == field


keys = st.sampled_from([*CLOUD, "event_id", "kind", "request_id", "payload"])
values = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.just({"line": "x"})
)


@given(st.dictionaries(keys, values, max_size=8), st.booleans())
def test_any_json_is_an_event_or_a_named_breach(obj: dict[str, Any], cloud: bool) -> None:  # noqa: FBT001
    base = CLOUD if cloud else LOG
    try:
        event = read({**base, **obj})
    except ContractError:
        return
    orjson.dumps(event_to_json(event, CODEC))
