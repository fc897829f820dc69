"""Bytes of a body become its events, wherever they are cut, and whatever they are."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm.deltas import Alive, Failed
from connectors.llm.framing import Frame, framer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connectors.llm.framing import Framed
    from connectors.llm.provider import Framing


def framed(framing: Framing, chunks: Iterable[bytes], bytes_max: int = 1_000) -> list[Framed]:
    made = framer(framing, bytes_max)
    out = [each for chunk in chunks for each in made.feed(chunk)]
    return [*out, *made.eof()]


def cut(body: bytes, places: Iterable[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(bounds)]


def test_an_event_has_its_name_and_its_data_lines_joined():
    body = b"event: message_start\ndata: {\ndata:  1}\n\ndata:x\n\n"
    assert framed("sse", [body]) == [Frame("message_start", "{\n 1}"), Frame("", "x")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
def test_each_sort_of_line_end_ends_a_line(end):
    body = f"event: a{end}data: 1{end}{end}data: 2{end}{end}".encode()
    assert framed("sse", [body]) == [Frame("a", "1"), Frame("", "2")]
    assert framed("sse", cut(body, range(len(body)))) == [Frame("a", "1"), Frame("", "2")]


def test_comments_and_fields_that_are_no_event_show_life():
    body = b": OPENROUTER PROCESSING\n\nid: 7\nretry: 10\nevent: ping\n\ndata: 1\n\n"
    seen = [" OPENROUTER PROCESSING", "id: 7", "retry: 10", "ping"]
    assert framed("sse", [body]) == [*(Alive(each) for each in seen), Frame("", "1")]


def test_a_byte_order_mark_is_no_part_of_the_first_line():
    assert framed("sse", [b"\xef", b"\xbb\xbfdata: 1\n\n"]) == [Frame("", "1")]


@pytest.mark.parametrize("framing", ["sse", "ndjson"])
def test_a_character_may_be_cut_between_chunks(framing):
    body = 'data: {"text": "für 🦊"}\n\n'.encode() if framing == "sse" else '{"text": "für 🦊"}\n'.encode()
    assert framed(framing, [body[i : i + 1] for i in range(len(body))]) == [Frame("", '{"text": "für 🦊"}')]


@pytest.mark.parametrize("framing", ["sse", "ndjson"])
def test_a_character_that_the_body_ends_within_is_malformed(framing):
    (last,) = framed(framing, ['data: {"text": "🦊'.encode()[:-1]])
    assert last.error_class == "malformed"
    assert "UTF-8" in last.raw


def test_bytes_that_are_no_text_are_malformed_and_end_the_body():
    events = framed("sse", [b'data: 1\n\ndata: "\xff"\n\ndata: 2\n\n'])
    assert events[0] == Frame("", "1")
    assert [type(each) for each in events] == [Frame, Failed]


@pytest.mark.parametrize(
    "body",
    [b"<!DOCTYPE html>\n<html>\n", b"upstream connect error or disconnect"],
    ids=["html", "words"],
)
def test_a_body_that_is_no_event_stream_is_told_by_its_size(body):
    (failed,) = framed("sse", [body])
    assert failed.error_class == "malformed"
    assert failed.raw == f"a line of {len(body.splitlines()[0])} characters that is no server-sent event"


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("sse", b'data: {"content": "Ada Lovelace'),
        ("ndjson", b'{"content": "Ada Lovelace'),
        ("sse", b"Ada Lovelace\n"),
        ("sse", b"data: Ada Lovelace \xff\n"),
    ],
    ids=["event", "line", "no-event", "no-text"],
)
def test_what_cannot_be_read_is_told_without_its_words(framing, body):
    failed = framed(framing, [body])[-1]
    assert failed.error_class in ("truncated", "malformed")
    assert "Ada" not in failed.raw


def test_an_error_field_is_an_event_of_that_name():
    assert framed("sse", [b'error: {"code":500}\n\n']) == [Frame("error", '{"code":500}')]


def test_json_without_a_field_before_it_is_an_event():
    body = b'data: 1\n\n{\n  "error": {\n    "code": 503\n  }\n}\n'
    assert framed("sse", [body]) == [Frame("", "1"), Frame("", '{\n  "error": {\n    "code": 503\n  }\n}')]
    assert framed("sse", [body[:-3]])[-1].error_class == "truncated"


def test_the_last_event_may_lack_its_empty_line_but_not_a_piece_of_its_data():
    assert framed("sse", [b'data: {"a": 1}\n']) == [Frame("", '{"a": 1}')]
    assert framed("sse", [b"data: [DONE]"]) == [Frame("", "[DONE]")]
    (failed,) = framed("sse", [b'data: {"a": '])
    assert failed.error_class == "truncated"
    (failed,) = framed("sse", [b"event: message_stop\n"])
    assert failed.error_class == "truncated"


def test_the_last_line_may_lack_its_end_but_not_a_piece_of_its_data():
    assert framed("ndjson", [b'{"a": 1}\n\n{"b": 2}']) == [Frame("", '{"a": 1}'), Frame("", '{"b": 2}')]
    assert framed("ndjson", [b'{"a": 1}\n{"b": '])[1].error_class == "truncated"


@pytest.mark.parametrize("framing", ["sse", "ndjson"])
def test_an_event_without_an_end_is_held_to_its_bound(framing):
    made = framer(framing, 100_000)
    fed = [each for _ in range(1_000) for each in made.feed(b"data: " + b"x" * 1_000)]
    (failed,) = [*fed, *made.eof()]
    assert failed.error_class == "oversized"
    assert "more than 100000 bytes" in failed.raw


def test_an_event_of_many_short_lines_is_held_to_its_bound():
    made = framer("sse", 1_000)
    assert [each.error_class for _ in range(2_000) for each in made.feed(b"data: x\n")] == ["oversized"]


def test_comments_have_no_bound_as_none_is_held():
    assert len(framed("sse", [b": " + b"x" * 90 + b"\n"] * 1_000, bytes_max=100)) == 1_000


LINES = st.sampled_from(
    [b"data: 1", b"data:", b"data", b"event: a", b"", b": c", b"id: 3", b"x", b"\xff", b"\xc3", b"<a>", b"{}"]
)
BODIES = st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r", b""]))).map(
    lambda lines: b"".join(line + end for line, end in lines)
)


@given(
    framing=st.sampled_from(["sse", "ndjson"]),
    body=st.one_of(BODIES, st.binary(max_size=200)),
    places=st.lists(st.integers(0, 1_000), max_size=20),
    bytes_max=st.sampled_from([8, 20, 1_000]),
)
def test_wherever_a_body_is_cut_its_events_are_the_same(framing, body, places, bytes_max):
    whole = framed(framing, [body], bytes_max)
    assert framed(framing, cut(body, places), bytes_max) == whole
    assert sum(isinstance(each, Failed) for each in whole) <= 1
