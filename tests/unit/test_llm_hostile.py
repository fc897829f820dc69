"""Whatever a provider sends, reading it never raises, and an answer without a reason to end is not whole."""

from __future__ import annotations

import base64
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.llm.deltas import Failed, Finished, Media, Over, Piece
from connectors.llm.framing import RAW_CHARACTERS_MAX
from connectors.llm.providers import PROVIDERS
from connectors.llm.providers.normalising import (
    BLOCKS_MAX,
    MEDIA_BYTES_MAX,
    NAME_BYTES_MAX,
    PIECE_CHARACTERS_MAX,
)
from tests.unit.support_llm import RECORDED, STREAMED, body_of, deltas_of, ended, sent, told

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from connectors.llm.calls import Shape
    from connectors.llm.deltas import Delta

SHAPES = sorted(PROVIDERS)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "stop", "text", "error", "text_delta", "AAAA", "\u2028", "🦊"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def holds(deltas: Sequence[Delta]) -> None:
    """Assert what is true of every answer, whatever it was."""
    shown = ended(deltas)
    ends = [each for each in shown if isinstance(each, Over | Failed)]
    assert len(ends) == 1
    if isinstance(ends[0], Over):
        assert any(isinstance(each, Finished) for each in shown)
    for each in shown:
        if isinstance(each, Failed):
            assert len(each.raw) <= RAW_CHARACTERS_MAX
            assert each.raw
        if isinstance(each, Piece):
            each.text.encode()
            assert each.channel != "tool" or each.call_id


def cut(body: bytes, places: Iterable[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(bounds)]


@given(
    name=st.sampled_from(sorted(STREAMED)),
    places=st.lists(st.integers(0, 100_000), max_size=30),
)
def test_wherever_a_body_is_cut_an_answer_is_the_same(name, places):
    recording = STREAMED[name]
    body = body_of(recording)
    assert deltas_of(recording.shape, cut(body, places)) == deltas_of(recording.shape, [body])


@pytest.mark.parametrize("name", sorted(STREAMED))
def test_a_body_that_comes_byte_by_byte_is_the_same_answer(name):
    recording = STREAMED[name]
    body = body_of(recording)
    singly = deltas_of(recording.shape, [body[i : i + 1] for i in range(len(body))])
    assert singly == deltas_of(recording.shape, [body])


@given(
    shape=st.sampled_from(SHAPES),
    body=st.binary(max_size=300),
    places=st.lists(st.integers(0, 300), max_size=5),
    bytes_max=st.sampled_from([10, 1_000]),
)
def test_random_bytes_are_an_outcome(shape, body, places, bytes_max):
    deltas = deltas_of(shape, cut(body, places), bytes_max=bytes_max)
    holds(deltas)
    assert deltas == deltas_of(shape, [body], bytes_max=bytes_max)


@given(
    shape=st.sampled_from(SHAPES),
    values=st.lists(JSON, max_size=5),
    event=st.sampled_from(["", "error", "ping"]),
)
def test_random_json_is_an_outcome(shape, values, event):
    holds(deltas_of(shape, [sent(shape, event, json.dumps(value)) for value in values]))


@st.composite
def mutated(draw: st.DrawFn) -> tuple[Shape, list[bytes]]:
    """Give a recorded answer with values replaced somewhere, and events left out or repeated."""
    recording = STREAMED[draw(st.sampled_from(sorted(STREAMED)))]
    events = [each for each in recording.events if each.comment is None]
    order = draw(st.lists(st.integers(0, len(events) - 1), min_size=1, max_size=len(events) + 3))
    chunks = []
    for index in sorted(order) if draw(st.booleans()) else order:
        data = events[index].data
        if data != "[DONE]":
            value = json.loads(data)
            if draw(st.integers(0, 2)) == 0:
                value = _replaced(draw, value)
            data = json.dumps(value)
        chunks.append(sent(recording.shape, events[index].event, data))
    return recording.shape, chunks


def _replaced(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value:
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: _replaced(draw, value[key])}
    if isinstance(value, list) and value:
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], _replaced(draw, value[index]), *value[index + 1 :]]
    return draw(JSON)


@settings(max_examples=400)
@given(answer=mutated())
def test_a_recorded_answer_with_anything_in_it_is_an_outcome(answer):
    shape, chunks = answer
    holds(deltas_of(shape, chunks))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("body", "error_class"),
    [
        (b"", "truncated"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>\n", "malformed"),
        (b"\n\n\n", "truncated"),
        (b"data: {]\n\n", "malformed"),
        (b"data: 7\n\n", "malformed"),
        (b'data: "\xf0\x9f\n\n', "malformed"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "oversized"),
    ],
    ids=["nothing", "html", "blank", "no-json", "number", "half-a-character", "deep"],
)
def test_a_body_that_is_not_of_the_shape_is_told(shape, body, error_class):
    if PROVIDERS[shape].framing == "ndjson":
        body = body.removeprefix(b"data: ")
    answer = told(deltas_of(shape, [body]))
    assert answer.end == error_class
    assert answer.error_raw


def test_an_end_mark_without_a_reason_is_no_whole_answer():
    text = RECORDED["openai-chat/text"].events[1].data
    chat = told(deltas_of("openai-chat", [sent("openai-chat", "", text), sent("openai-chat", "", "[DONE]")]))
    assert (chat.text, chat.end) == ("The", "truncated")
    stop = sent("anthropic", "message_stop", '{"type":"message_stop"}')
    assert told(deltas_of("anthropic", [stop])).end == "truncated"


def test_content_after_a_reason_to_finish_wants_a_reason_again():
    said = {"content": {"parts": [{"text": "a"}]}, "index": 0}
    once = json.dumps({"candidates": [{**said, "finishReason": "STOP"}]})
    more = json.dumps({"candidates": [said]})
    assert told(deltas_of("gemini", [sent("gemini", "", once)])).end == "over"
    assert told(deltas_of("gemini", [sent("gemini", "", once), sent("gemini", "", more)])).end == "truncated"


def test_media_that_are_not_base64_are_malformed():
    part = {"inlineData": {"mimeType": "image/png", "data": "@@"}}
    chunk = {"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]}
    assert told(deltas_of("gemini", [sent("gemini", "", json.dumps(chunk))])).end == "malformed"


@pytest.mark.parametrize(
    ("shape", "chunk", "error_class"),
    [
        ("gemini", {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}, "server"),
        ("gemini", {"candidates": [{"finishReason": "OTHER", "finishMessage": "m"}]}, "server"),
        ("openai-chat", {"choices": [{"delta": {}, "finish_reason": "error"}]}, "server"),
        ("openai-chat", {"choices": [{"finish_reason": "insufficient_system_resource"}]}, "overloaded"),
    ],
    ids=["malformed-call", "other", "error", "resource"],
)
def test_a_reason_by_which_an_answer_is_given_up_is_no_end(shape, chunk, error_class):
    assert told(deltas_of(shape, [sent(shape, "", json.dumps(chunk))])).end == error_class


def test_each_of_several_answers_must_finish():
    def chunk(index: int, content: str, finish: str | None) -> bytes:
        choice = {"index": index, "delta": {"content": content}, "finish_reason": finish}
        return sent("openai-chat", "", json.dumps({"choices": [choice]}))

    begun = [chunk(0, "a", None), chunk(1, "b", None), chunk(0, "", "stop")]
    assert told(deltas_of("openai-chat", begun)).end == "truncated"
    assert told(deltas_of("openai-chat", [*begun, chunk(1, "", "stop")])).end == "over"


def test_another_answer_amid_one_is_not_joined_to_it():
    events = [sent("anthropic", each.event, each.data) for each in RECORDED["anthropic/text"].events]
    other = events[0].replace(b"msg_01XFDUDYJgAACzvnptvVoYEL", b"msg_02")
    assert told(deltas_of("anthropic", [other, *events])).text == "Hello! How are you? 🙂"
    amid = told(deltas_of("anthropic", [*events[:5], other, *events]))
    assert (amid.text, amid.end) == ("Hello!", "malformed")


def test_what_is_remembered_of_an_answer_is_bounded():
    def call(index: int) -> str:
        return json.dumps(
            {"choices": [{"delta": {"tool_calls": [{"id": f"c{index}", "function": {"name": "f"}}]}}]}
        )

    def block(index: int) -> str:
        tool = {"type": "tool_use", "id": f"t{index}", "name": "f"}
        return json.dumps({"type": "content_block_start", "index": index, "content_block": tool})

    def piece(index: int) -> str:
        return json.dumps({"type": "response.output_text.delta", "output_index": index, "delta": "a"})

    for shape, make in (("openai-chat", call), ("anthropic", block), ("openai-responses", piece)):
        answer = told(deltas_of(shape, [sent(shape, "", make(index)) for index in range(BLOCKS_MAX + 1)]))
        assert answer.end == "oversized"
        assert str(BLOCKS_MAX) in answer.error_raw


def test_what_is_too_long_for_one_event_comes_in_pieces():
    said = "a" * (2 * PIECE_CHARACTERS_MAX + 1)
    call = {"functionCall": {"name": "f", "args": {"x": said}}}
    picture = bytes(range(256)) * 2_000
    inline = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(picture).decode()}}
    parts = [{"text": said}, call, inline, inline]
    chunk = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    deltas = deltas_of("gemini", [sent("gemini", "", json.dumps(chunk))])
    answer = told(deltas)
    assert (answer.text, answer.tools) == (said, {"call_0": ["f", f'{{"x":"{said}"}}']})
    assert all(len(each.text) <= PIECE_CHARACTERS_MAX for each in deltas if isinstance(each, Piece))
    media = [each for each in deltas if isinstance(each, Media)]
    assert all(len(each.data) <= MEDIA_BYTES_MAX for each in media)
    assert [b"".join(each.data for each in media if each.index == index) for index in (0, 1)] == [picture] * 2


def test_an_address_of_media_is_bounded():
    part = {"fileData": {"mimeType": "image/png", "fileUri": "https://x.example/" + "y" * 10_000}}
    chunk = {"candidates": [{"content": {"parts": [part]}}]}
    assert told(deltas_of("gemini", [sent("gemini", "", json.dumps(chunk))])).end == "malformed"


def test_sound_that_follows_sound_is_of_one_index():
    def inline(mime: str) -> dict[str, Any]:
        return {"inlineData": {"mimeType": mime, "data": "AAAA"}}

    parts = [inline(mime) for mime in ("audio/L16", "audio/L16", "image/png", "image/png", "audio/L16")]
    chunks = [
        sent("gemini", "", json.dumps({"candidates": [{"content": {"parts": [each]}}]})) for each in parts
    ]
    media = [each for each in deltas_of("gemini", chunks) if isinstance(each, Media)]
    assert [each.index for each in media] == [0, 0, 1, 2, 3]


def test_names_are_bounded_as_they_go_into_each_event():
    long = "n" * 10_000
    call = {"id": long, "function": {"name": long, "arguments": "{}"}}
    chunk = {"id": long, "model": long, "choices": [{"delta": {"tool_calls": [call]}}]}
    answer = told(deltas_of("openai-chat", [sent("openai-chat", "", json.dumps(chunk))]))
    short = long[:NAME_BYTES_MAX]
    assert answer.tools == {short: [short, "{}"]}
    assert (answer.named.request_id, answer.named.model) == (short, short)
