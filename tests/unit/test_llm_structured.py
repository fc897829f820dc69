"""Structured output: shown while it comes, refused as soon as it cannot become right, judged at its end."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from connectors.llm import structured as module
from connectors.llm.answer_schemas import Unchecked, answer_schema
from connectors.llm.errors import CallRefused
from connectors.llm.openings import Openings
from connectors.llm.structured import StructuredAnswer

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "kind": {"enum": ["cat", "dog"]},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "at": {"$ref": "#/$defs/place"},
    },
    "required": ["name", "kind"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "object", "required": ["x"], "properties": {"x": {"type": "number"}}}},
}
GOOD = {"name": 'A "b" é', "kind": "dog", "age": 12, "tags": ["a", "b"], "at": {"x": 1.5}}


@pytest.fixture(autouse=True)
def look_at_every_character(monkeypatch):
    monkeypatch.setattr(module, "STEP_CHARACTERS", 1)
    monkeypatch.setattr(module, "GROWTH", 1_000_000)
    monkeypatch.setattr(module, "INTERVAL_S", 0.0)


def feed(text, schema=PERSON, size=1):
    answer = StructuredAnswer(answer_schema(schema, "person"))
    events = [
        event
        for start in range(0, len(text), size)
        for event in answer.take(text[start : start + size], start * 1.0)
    ]
    return events, answer


def test_a_good_answer_is_shown_as_it_grows_and_found_good():
    text = json.dumps(GOOD)
    events, answer = feed(text)
    assert len(events) > 10
    for event in events:
        assert not event.complete
        assert event.problem == ""
        assert json.loads(event.json).items() <= {**GOOD, **json.loads(event.json)}.items()
    last = answer.finish()
    assert (last.complete, last.problem, last.schema_name) == (True, "", "person")
    assert json.loads(last.json) == GOOD


@pytest.mark.parametrize(
    ("text", "said_at", "problem"),
    [
        ('{"name": 1, "kind": "cat"}', '{"name": 1', "/name: 1 is not of type 'string'"),
        ('{"name": [], "kind": "cat"}', '{"name": [', "/name: [] is not of type 'string'"),
        ('{"name": "a", "kind": "cow"}', '{"name": "a", "kind": "co', "/kind: 'co"),
        ('{"name": "a", "who": 1}', '{"name": "a", "who": 1', "/: may not have 'who'"),
        ('{"tags": ["a", 2, "c"]}', '{"tags": ["a", 2', "/tags/1: 2 is not of type 'string'"),
        ('{"at": {"y": 1}, "name": "a"}', '{"at": {"y": 1}', "/at: 'x' is a required property"),
        ('{"name": "' + "a" * 50 + '"}', '{"name": "' + "a" * 41, "is too long"),
        ("[1]", "[", "is not of type 'object'"),
        ("Sure! Here is", "S", "is no JSON"),
    ],
)
def test_what_is_whole_and_wrong_is_said_at_once(text, said_at, problem):
    for size in (1, 2, 3):
        events, answer = feed(text, size=size)
        assert problem in events[-1].problem
        assert len(said_at) <= answer._size < len(said_at) + size
        assert answer.finish().problem == events[-1].problem


@pytest.mark.parametrize(
    ("schema", "text", "problem"),
    [
        (PERSON, '{"name": "a"}', "/: 'kind' is a required property"),
        (PERSON, '{"name": "a", "kind": "c"}', "/kind: 'c' is not one of"),
        (PERSON, '{"name": "a", "kind": "cat"', "is no JSON"),
        (PERSON, '{"name": "a", "kind": "cat"} and more', "is no JSON"),
        (PERSON, "  ", "is empty"),
        ({}, "NaN", "is no JSON"),
        ({"minimum": 3}, "2", "2 is less than"),
        ({"properties": {"a/b~": {"type": "null"}}}, '{"a/b~": 1}', "/a~1b~0: 1 is not"),
    ],
)
def test_the_whole_is_judged_at_its_end(schema, text, problem):
    assert problem in feed(text, schema, size=len(text))[1].finish().problem


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2000)
    | st.sampled_from([1.5, 1e3])
    | st.text('ab\\"é,{', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", '"c,']), inner, max_size=3)
    ),
    max_leaves=12,
)
SCHEMAS = st.recursive(
    st.sampled_from(
        [
            *({"type": each} for each in ("string", "integer", "number", "object", "array", "boolean")),
            *(
                {"enum": ["ab", 1, None]},
                {"const": "aaa"},
                {"maxLength": 2},
                {"minLength": 3},
                {"minimum": 3},
            ),
            *(
                {"maxItems": 1},
                {"minItems": 2},
                {"required": ["b"]},
                {"uniqueItems": True},
                {"maxProperties": 1},
            ),
            *({"pattern": "^a"}, {"multipleOf": 3}, True, False),
        ]
    ),
    lambda inner: st.one_of(
        st.builds(lambda each: {"properties": {"a": each}, "additionalProperties": False}, inner),
        st.builds(lambda each: {"additionalProperties": each}, inner),
        st.builds(lambda each: {"items": each}, inner),
        st.builds(lambda each: {"prefixItems": [each], "items": False}, inner),
        st.builds(lambda each: {"contains": each}, inner),
        st.builds(lambda each: {"not": each}, inner),
        st.builds(lambda one, two: {"anyOf": [one, two]}, inner, inner),
        st.builds(lambda one, two: {"oneOf": [one, two]}, inner, inner),
        st.builds(lambda one, two: {"allOf": [one, two]}, inner, inner),
        st.builds(lambda one, two, three: {"if": one, "then": two, "else": three}, inner, inner, inner),
        st.builds(lambda each: {"patternProperties": {"^[ab]$": each}}, inner),
    ),
    max_leaves=5,
).map(lambda schema: schema if isinstance(schema, dict) else {"allOf": [schema]})


@given(value=VALUES, schema=SCHEMAS, spaced=st.booleans())
def test_an_answer_that_is_right_at_its_end_was_never_called_wrong(value, schema, spaced):
    text = json.dumps(value, ensure_ascii=False, separators=(", ", ": ") if spaced else (",", ":"))
    events, answer = feed(text, schema)
    right = Draft202012Validator(schema).is_valid(value)
    assert (answer.finish().problem == "") == right
    if right:
        assert all(event.problem == "" for event in events)


@given(value=VALUES)
def test_the_open_path_leads_to_where_the_text_stands(value):
    text = json.dumps(value, ensure_ascii=False)
    openings = Openings()
    for letter in text:
        openings.take(letter)
    assert openings.path == ()
    whole = Openings()
    whole.take(text)
    assert whole.path == ()


def test_the_open_path_names_keys_and_indices():
    openings = Openings()
    openings.take('{"a\\"": [1, {"b": "x')
    assert openings.path == ('a"', 1, "b")
    openings.take('"}, ')
    assert openings.path == ('a"', 2)


def test_all_that_is_shown_is_a_small_multiple_of_the_text(monkeypatch):
    monkeypatch.setattr(module, "STEP_CHARACTERS", 64)
    monkeypatch.setattr(module, "GROWTH", 4)
    text = json.dumps([{"n": number, "s": "x" * 20} for number in range(3_000)])
    events, answer = feed(text, {"type": "array"}, size=7)
    assert answer.finish().problem == ""
    assert len(events) < 50
    assert sum(len(event.json) for event in events) < 6 * len(text)


def test_time_bounds_how_often_it_is_shown(monkeypatch):
    monkeypatch.setattr(module, "INTERVAL_S", 0.1)
    answer = StructuredAnswer(answer_schema({}, ""))
    shown = [bool(answer.take("[1," * 10, at / 100)) for at in range(2)]
    assert shown == [True, False]
    assert answer.take("1,", 0.2)


def test_an_answer_without_an_end_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "BYTES_MAX", 1_000)
    events, answer = feed("[" + "1, " * 2_000, {}, size=50)
    assert "more than 1000 bytes" in events[-1].problem
    assert answer.problem
    assert "more than 1000 bytes" in feed('["' + "é" * 600, {}, size=50)[1].problem
    assert feed('["' + "e" * 600 + '"]', {}, size=50)[1].finish().problem == ""
    events, _ = feed("[" * 500, {})
    assert "deeper than 64" in events[-1].problem


@pytest.mark.parametrize("number", ["1e9", "1e300"])
def test_what_would_be_too_much_as_it_is_written_is_not_shown_before_the_end(monkeypatch, number):
    monkeypatch.setattr(module, "BYTES_MAX", 1_000)
    text = "[" + f"{number}," * 150 + "1]"
    events, answer = feed(text, {}, size=10)
    assert len(text) < 1_000 < len(text.replace(number, str(float(number))))
    assert events
    assert max(len(event.json) for event in events) <= 1_000
    assert answer.finish().json == text
    wrong = feed(text[:-1] + ",}", {"items": {"type": "string"}}, size=len(text))[1].finish()
    assert (wrong.json, wrong.complete) == ("null", False)


def nested(depth):
    schema = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "thing"}, "schema/type: "),
        ({"$ref": "http://example.com/x"}, "is no schema of this document"),
        ({"$ref": "#/$defs/none"}, "is no schema of this document"),
        ({"$ref": "#/enum/0", "enum": [{"pattern": "(?=x)"}]}, "is no schema of this document"),
        ({"properties": {"a": {"$id": "http://x"}}}, "schema/properties/a/$id: is not supported"),
        ({"pattern": "(?=x)"}, "look-around"),
        ({"patternProperties": {"(": True}}, "unclosed group"),
        ({"enum": ["x" * 40_000]}, "bytes, at most 32768"),
        (nested(40), "is deeper than 32 levels"),
        ({"allOf": [{}] * 1_000}, "has more than 1000 parts"),
        ({"x": object()}, "is no JSON"),
        ({"pattern": r"\w" * 140}, "KiB compiled, at most 2048: write fewer classes"),
        ({"pattern": r"(?:\p{L}x{2,9})+{0,90}"}, "KiB compiled, at most 2048"),
        ({"pattern": r"(\w{9}[](])?{9}"}, "KiB compiled, at most 2048"),
        ({"pattern": "(?mx)a#("}, "sets the flag x"),
        ({"allOf": [{"pattern": rf"\w{{20}}{n}"} for n in range(75)]}, "schema/allOf/3: the regular"),
        ({"patternProperties": {f"{n}": True for n in range(65)}}, "one of more than 64 regular expressions"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_schema_that_cannot_be_used_is_refused_before_the_call(schema, said):
    with pytest.raises(CallRefused, match=re.escape(said)) as refused:
        answer_schema(schema, "s")
    assert refused.value.remedy


TWICE = {"allOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]}


def deep(levels):
    return json.loads('{"a":' * levels + "1" + "}" * levels)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (TWICE, deep(40)),
        ({"$ref": "#"}, 1),
        ({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, 1),
        ({"uniqueItems": True}, [{"n": number} for number in range(5_000)]),
        ({"patternProperties": {f"{n}x+": True for n in range(60)}}, {str(n): n for n in range(2_000)}),
        ({"multipleOf": 0.5}, float("inf")),
        ({"pattern": "(.{0,30}){0,30}y"}, "x" * 100_000),
    ],
    ids=["twice a level", "itself", "itself twice", "unique", "patterns", "infinite", "long"],
)
def test_a_schema_that_would_never_be_done_is_given_up(schema, value):
    with pytest.raises(Unchecked):
        answer_schema(schema, "s").problems(value)


def test_an_option_that_nothing_fits_is_wrong_for_good_and_breaks_nothing():
    schema = answer_schema(
        {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, False]}}}, "s"
    )
    answer = StructuredAnswer(schema)
    shown = [*answer.take('{"a": [' + "1, " * 60, 1.0), answer.finish()]
    assert shown[0].problem.startswith("/a")
