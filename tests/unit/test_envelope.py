"""The envelope: each field has its bounds, and a breach names the field."""

from __future__ import annotations

import threading
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import (
    INT_MAX,
    LONG_MAX,
    PAYLOAD_BYTES_MAX,
    RESERVED_TYPES,
    TIME_MAX,
    Event,
    check_event,
    check_published,
    new_event_id,
    split_key,
    stream_key,
)
from schemas.errors import InvalidEvent

GOOD = Event(
    event_id="e1",
    tenant="default",
    stream_id="build-1",
    seq=0,
    kind="log",
    type="log",
    time=1_795_000_000_000_000,
    source="",
    request_id="",
    task_id="",
    upstream_id="",
    traceparent="",
    epoch=0,
    attempt=0,
    payload=b"",
    payload_schema=1,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("event_id", "x" * 64),
        ("event_id", "é" * 32),
        ("tenant", "T_-9" * 16),
        ("stream_id", "a.b:c-_9" + "x" * 120),
        ("seq", -1),
        ("seq", LONG_MAX),
        ("time", 0),
        ("time", 4_070_908_800_000_000),  # 2099: the watermark sees to it
        ("time", TIME_MAX),
        ("source", "s" * 256),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("epoch", INT_MAX),
        ("attempt", INT_MAX),
        ("payload", b"x" * PAYLOAD_BYTES_MAX),
        ("type", "reading_2"),
        ("kind", "user-kind"),
    ],
)
def test_a_value_at_its_bound_passes(field: str, value: object) -> None:
    check_published(GOOD._replace(**{field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("event_id", ""),
        ("event_id", "x" * 65),
        ("event_id", "é" * 33),
        ("event_id", "a\nb"),
        ("event_id", "a\x00b"),
        ("tenant", ""),
        ("tenant", "a/b"),
        ("tenant", "x" * 65),
        ("tenant", "café"),
        ("tenant", "a\n"),
        ("stream_id", ""),
        ("stream_id", "a/b"),
        ("stream_id", "a b"),
        ("stream_id", "x" * 129),
        ("seq", -2),
        ("seq", LONG_MAX + 1),
        ("kind", ""),
        ("kind", "Log"),
        ("kind", "a.b"),
        ("type", ""),
        ("type", "a-b"),
        ("type", "9x"),
        ("type", "x" * 65),
        ("time", -1),
        ("time", TIME_MAX + 1),
        ("source", "s" * 257),
        ("source", "a\x1b[31m"),
        ("request_id", "r" * 129),
        ("task_id", "t" * 129),
        ("upstream_id", "u" * 257),
        ("traceparent", "00-0af7-b7ad-01"),
        ("epoch", -1),
        ("epoch", INT_MAX + 1),
        ("attempt", -1),
        ("payload", b"x" * (PAYLOAD_BYTES_MAX + 1)),
        ("payload_schema", 0),
        ("payload_schema", -1),
        ("payload_schema", INT_MAX + 1),
    ],
)
def test_a_value_beyond_its_bound_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidEvent) as caught:
        check_event(GOOD._replace(**{field: value}))
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("type_name", RESERVED_TYPES)
def test_what_only_sluicegate_says_is_refused_from_outside_alone(type_name: str) -> None:
    event = GOOD._replace(type=type_name)
    check_event(event)
    with pytest.raises(InvalidEvent, match="sluicegate alone"):
        check_published(event)


def test_the_key_splits_into_what_it_was_made_of() -> None:
    assert stream_key("t", "a.b:c") == GOOD.key.replace(b"default/build-1", b"t/a.b:c")
    assert split_key(GOOD.key) == ("default", "build-1")
    assert GOOD.full_id.encode() == GOOD.key


@pytest.mark.parametrize(
    "key", [b"", b"a", b"/", b"a/", b"/a", b"a/b/c", b"\xff/a", "é/a".encode(), b"a/b\n"]
)
def test_a_key_of_another_shape_is_refused(key: bytes) -> None:
    with pytest.raises(InvalidEvent):
        split_key(key)


@given(st.binary(max_size=300))
def test_any_key_splits_or_is_refused(key: bytes) -> None:
    try:
        tenant, stream_id = split_key(key)
    except InvalidEvent:
        return
    assert stream_key(tenant, stream_id) == key


def test_an_event_id_is_a_uuid_of_version_7_with_the_time_in_it() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_event_id())
    after = time.time_ns() // 1_000_000
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert before <= made.int >> 80 <= max(after, before)


def test_event_ids_of_several_threads_are_all_different() -> None:
    made: list[str] = []

    def make() -> None:
        made.extend(new_event_id() for _ in range(5_000))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 20_000
    assert len({len(text) for text in made}) == 1


def test_event_ids_do_not_go_back_when_the_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_event_id()
    monkeypatch.setattr("schemas.envelope.clock.time_ns", lambda: 1)
    assert uuid.UUID(new_event_id()).int >> 80 >= uuid.UUID(first).int >> 80
