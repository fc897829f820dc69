"""Prompts: what a template may say, what a variable may do, and whom a label stands for."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm.book import Book
from connectors.llm.errors import CallRefused, PromptRefused
from connectors.llm.prompts import Prompt, check_shares, labels_of, moved, template_of
from connectors.llm.routing import draw_of
from tests.unit.test_llm_routing import OPENAI, asked, planned, put

DRAW = draw_of("default", "s1")


def template(text="Answer {name} in {language}.", **variables):
    variables = variables or {"name": {}, "language": {"default": "English", "characters_max": 20}}
    return {"messages": [{"role": "system", "content": text}], "variables": variables}


def prompt(*args, **variables):
    return Prompt("support", 3, template_of(orjson.dumps(template(*args, **variables)).decode(), "support"))


def book_with(*versions, labels=None):
    book = Book({"openai": OPENAI})
    put(book, "default", 1, {"candidates": [{"target": "openai", "model": "m"}]})
    for number, version in enumerate(versions, 1):
        write(book, number, orjson.dumps(version).decode())
    if labels is not None:
        told = {
            "name": "support",
            "version": 0,
            "template_json": "",
            "labels_json": orjson.dumps(labels).decode(),
        }
        book.take_prompt(b"support", told)
    return book


def write(book, number, text):
    told = {"name": "support", "version": number, "template_json": text, "labels_json": ""}
    book.take_prompt(f"support/{number}".encode(), told)


# -- rendering --------------------------------------------------------------------------------------------


def test_variables_are_put_in_and_defaults_stand_for_what_is_missing():
    assert prompt().render({"name": "Ada"}) == [{"role": "system", "content": "Answer Ada in English."}]


@pytest.mark.parametrize(
    ("given_values", "said"),
    [
        ({}, "needs variable 'name'"),
        ({"name": "Ada", "nmae": "x"}, "has no variable 'nmae'"),
        ({"name": "Ada", "language": "x" * 21}, "has 21 characters, at most 20"),
    ],
    ids=["missing", "unknown", "long"],
)
def test_a_variable_that_is_not_as_declared_is_refused(given_values, said):
    with pytest.raises(PromptRefused, match=said) as refused:
        prompt().render(given_values)
    assert "Ada" not in str(refused.value), "what a person wrote is not repeated"


@pytest.mark.parametrize(
    "text",
    ["{name.__class__}", "{name[0]}", "{name!r}", "{name:>9}", "{0}", "{}", "${name.x}", '{"name": 1}'],
)
def test_nothing_but_a_plain_name_is_a_variable(text):
    made = prompt(text + " {name}", name={})
    assert made.render({"name": "Ada"})[0]["content"] == text + " Ada"


@given(st.text(max_size=60), st.text(alphabet="{}abname_", max_size=40))
def test_a_value_is_put_in_as_it_is_whatever_it_holds(value, other):
    made = prompt("<{name}|{other}>", name={}, other={})
    content = made.render({"name": value, "other": other})[0]["content"]
    assert content == f"<{value}|{other}>"


def test_doubled_braces_are_braces():
    assert prompt("{{name}} is {name}", name={}).render({"name": "x"})[0]["content"] == "{name} is x"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (template("Hi {nmae}", name={}), "{nmae} stands in a message"),
        (template("Hi", name={}), "variable name stands in no message"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "system", "content": "x"}], "model": "m"}, "model"),
    ],
    ids=["undeclared", "unused", "empty", "role", "unknown"],
)
def test_a_template_is_checked_when_it_is_written(made, said):
    with pytest.raises(PromptRefused, match=said):
        template_of(orjson.dumps(made).decode(), "support")


# -- labels -----------------------------------------------------------------------------------------------


def test_a_label_shares_streams_between_versions_and_each_stream_keeps_its_own():
    one, two = template("One.") | {"variables": {}}, template("Two.") | {"variables": {}}
    book = book_with(one, two, labels={"production": [{"1": 90, "2": 10}], "canary": [{"2": 100}]})
    drawn = [
        book.prompt("support", "production", draw_of("default", f"s{number}")).version
        for number in range(2_000)
    ]
    again = [
        book.prompt("support", "production", draw_of("default", f"s{number}")).version
        for number in range(2_000)
    ]
    assert drawn == again
    assert 150 < drawn.count(2) < 250, "a tenth of 2,000, by more than three times its deviation"
    assert book.prompt("support", "canary", DRAW).version == 2
    assert book.prompt("support", "1", DRAW).version == 1, "a version by its own number"


def test_what_is_not_there_is_refused_and_what_there_is_is_named():
    book = book_with(template("One.") | {"variables": {}}, labels={"production": [{"7": 100}]})
    for name, label, said in [
        ("suport", "production", "no prompt 'suport'"),
        ("support", "staging", "no label 'staging'"),
        ("support", "production", "no version 7"),
        ("support", "99", "no version 99"),
    ]:
        with pytest.raises(PromptRefused, match=said):
            book.prompt(name, label, DRAW)


def test_a_version_never_changes():
    book = book_with(template("One.") | {"variables": {}})
    write(book, 1, orjson.dumps(template("Another.") | {"variables": {}}).decode())
    assert book.refused == 1
    assert book.prompt("support", "1", DRAW).render({})[0]["content"] == "One."


def test_a_label_goes_back_step_by_step():
    labels = moved(moved(moved({}, "production", {1: 100}), "production", {2: 100}), "production", {3: 100})
    back = moved(labels, "production", None)
    assert back["production"][0] == {2: 100}
    assert moved(back, "production", None)["production"] == [{1: 100}]
    with pytest.raises(PromptRefused, match="nothing else before"):
        moved(moved(back, "production", None), "production", None)


def test_labels_are_read_as_they_were_written_and_what_is_wrong_is_refused():
    labels = {"production": [{1: 90, 2: 10}, {1: 100}]}
    assert labels_of(orjson.dumps(labels, option=orjson.OPT_NON_STR_KEYS).decode(), "p") == labels
    for text in ["[]", '{"production": [{"1": 50}]}', '{"3": [{"1": 100}]}', '{"x": [{}]}', "{"]:
        with pytest.raises(PromptRefused):
            labels_of(text, "p")
    with pytest.raises(PromptRefused, match="make 99"):
        check_shares({1: 99}, "label x")


# -- in a plan --------------------------------------------------------------------------------------------


def test_a_plan_names_prompt_and_version_and_puts_its_messages_first():
    book = book_with(template("Speak {language}.", language={}), labels={"production": [{"1": 100}]})
    made = planned(book, asked(prompt="support", variables_json='{"language": "French"}'))
    assert (made.prompt, made.prompt_version) == ("support", 1)
    assert made.call.messages == [
        {"role": "system", "content": "Speak French."},
        {"role": "user", "content": "Why is the sky blue?"},
    ]


def test_a_route_may_go_by_the_prompt_and_its_version():
    book = book_with(template("One.") | {"variables": {}}, labels={"production": [{"1": 100}]})
    route = {
        "candidates": [
            {
                "target": "openai",
                "model": "for-1",
                "when": {"prompts": ["support/1"], "labels": ["production"]},
            },
            {"target": "openai", "model": "for-2", "when": {"prompts": ["support/2"]}},
            {"target": "openai", "model": "other"},
        ]
    }
    put(book, "default", 2, route)
    assert [one.model for one in planned(book, asked(prompt="support")).choices] == ["for-1", "other"]
    assert [one.model for one in planned(book).choices] == ["other"]


def test_variables_without_a_prompt_are_refused():
    with pytest.raises(CallRefused, match="no prompt that has any"):
        planned(book_with(), asked(variables_json='{"name": "x"}'))
