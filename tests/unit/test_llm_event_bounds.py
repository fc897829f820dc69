"""What one event of a provider may hold: all answers of a worker wait while it is read."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm.deltas import Failed, Piece, Usage
from connectors.llm.kept import kept_raw
from connectors.llm.nesting import _TOKEN, VALUES_MAX, TooMany, read_event
from connectors.llm.providers import PROVIDERS
from connectors.llm.providers.normalising import LIST_MAX, PARTS_MAX
from tests.unit.support_llm import deltas_of, sent, told

SHAPES = sorted(PROVIDERS)
TEXTS = {
    "anthropic": '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%s}}',
    "gemini": '{"candidates":[{"content":{"parts":[{"text":%s}]}}]}',
    "ollama": '{"message":{"content":%s}}',
    "openai-chat": '{"choices":[{"delta":{"content":%s}}]}',
    "openai-responses": '{"type":"response.output_text.delta","output_index":0,"delta":%s}',
}


def answer(shape, data):
    return told(deltas_of(shape, [sent(shape, "", data)]))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_list_of_events_is_of_one_shape_alone_and_bounded(shape):
    def listed(objects):
        return answer(shape, f"[{','.join([TEXTS[shape] % json.dumps('a')] * objects)}]")

    few = listed(LIST_MAX)
    if shape == "gemini":
        assert (few.text, few.end) == ("a" * LIST_MAX, "truncated")
        assert listed(LIST_MAX + 1).end == "oversized"
    else:
        assert (few.text, few.end) == ("", "malformed")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("value", ["0", "{}", '"a"', '{"a":[1]}'])
def test_an_event_of_more_values_than_any_has_is_oversized_and_none_of_it_is_read(shape, value):
    many = f"[{','.join([value] * (VALUES_MAX + 1))}]"
    with pytest.raises(TooMany):
        read_event(many)
    for data in (many, TEXTS[shape].replace("%s", '"a"')[:-1] + f',"more":{many}}}'):
        told_of = answer(shape, data)
        assert (told_of.text, told_of.end) == ("", "oversized")
        assert f"more than {VALUES_MAX} values" in told_of.error_raw


@pytest.mark.parametrize("shape", SHAPES)
def test_a_long_text_is_one_value_whatever_stands_in_it(shape):
    said = '[1,{"a":2}], \\' * VALUES_MAX
    assert answer(shape, TEXTS[shape] % json.dumps(said)).text == said


@given(st.recursive(st.integers() | st.text('"\\,[{a'), lambda inner: st.lists(inner) | st.dictionaries(
    st.text('"\\,[{a', max_size=3), inner)))  # fmt: skip
def test_values_are_counted_as_json_has_them(value):
    def values(of):
        inner = of.values() if isinstance(of, dict) else of if isinstance(of, list) else ()
        return 1 + sum(map(values, inner))

    counted = [each[0] for each in _TOKEN.finditer(json.dumps(value)) if each[0][0] != '"']
    assert values(value) - 1 <= len(counted) <= 2 * values(value)


@pytest.mark.parametrize("strings", ['"' + '\\"' * 300_000, '"' * 600_000, '"a\\'])
def test_strings_without_an_end_are_looked_through_once(strings):
    assert sum(len(each[0]) for each in _TOKEN.finditer(strings)) >= len(strings) - 1, "no look is in vain"
    with pytest.raises(ValueError, match=r"values|string|unexpected"):
        read_event(strings + "," * (VALUES_MAX + 1))


def test_an_event_makes_so_many_parts_and_then_the_answer_has_failed():
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "1"}}
    chunk = {"choices": [{"delta": {"tool_calls": [call] * (PARTS_MAX + 9)}}], "usage": {"prompt_tokens": 7}}
    normaliser = PROVIDERS["openai-chat"].normaliser()
    deltas = normaliser.take("", json.dumps(chunk))
    assert [type(each) for each in deltas] == [Usage] + [Piece] * (PARTS_MAX - 1) + [Failed]
    assert deltas[-1] == Failed("oversized", f"an event of more than {PARTS_MAX} parts")
    assert list(normaliser.eof()) == []


def test_what_an_event_of_too_many_parts_took_is_known():
    parts = {"candidates": [{"content": {"parts": [{"text": "a"}] * PARTS_MAX}}]}
    listed = [parts, {**parts, "usageMetadata": {"promptTokenCount": 7}}]
    *shown, failed, usage = PROVIDERS["gemini"].normaliser().take("", json.dumps(listed))
    assert len(shown) == PARTS_MAX
    assert (failed.error_class, usage.input_tokens) == ("oversized", 7)


def test_of_an_event_of_too_many_values_as_many_dots_are_kept_as_it_has_characters():
    many = orjson.dumps([{}] * (VALUES_MAX + 1)).decode()
    assert kept_raw(many, "redacted") == "·" * len(many)
    assert kept_raw(many, "full") == many
