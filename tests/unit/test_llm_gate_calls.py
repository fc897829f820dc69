"""Calls of tools at a gate: held back until the answer is over, judged value by value, shown whole or not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm.deltas import Failed, Piece
from connectors.llm.judges import End, Held
from tests.unit.test_llm_gates import RULES, SECRET, answer, gate_of


def called(gate, arguments, size=1, names=("c1", "book")):
    out = [*gate.take(Piece("tool", "", 0, *names), 0.0)]
    for start in range(0, len(arguments), size):
        out += gate.take(Piece("tool", arguments[start : start + size], 0, *names), 0.0)
    return out


@pytest.mark.parametrize(
    ("arguments", "shown", "said"),
    [
        ('{"a": 1.50, "b": [true, null, "c\\n"]}', '{"a": 1.50, "b": [true, null, "c\\n"]}', "passed"),
        ('{"a": "the secrets"}', '{"a": "the […]"}', "rewritten counted=1 secret=1"),
        ('{"a": "\\u0073ecret \\"x\\""}', '{"a": "[…] \\"x\\""}', "rewritten secret=1"),
        ('{"secret": {"n": 5551234}}', '{"[…]": {"n": "#"}}', "rewritten digits=1 secret=1"),
        ('{"a": "sec", "b": "ret"}', '{"a": "sec", "b": "ret"}', "passed"),
        ('{"a": "sec', None, "ended:cut cut=1"),
        ("a secret in words", "a […] in words", "rewritten secret=1"),
        ('{"a": ["STOP"]}', None, "ended:stopped stop=1"),
        ("", "", "passed"),
    ],
    ids=["plain", "text", "escaped", "name-and-number", "values-apart", "cut", "words", "ended", "nothing"],
)
def test_a_call_is_judged_value_by_value_when_the_answer_is_over(arguments, shown, said):
    rules = (*RULES, ("digits", r"\b\d{7}\b", "rewrite:#"), ("cut", r'"sec$', "end:cut"))
    for size in (1, 5, 99):
        gate = gate_of(*rules)
        assert called(gate, arguments, size) == []
        over = Failed("gate", said.partition(" ")[0].removeprefix("ended:"))
        assert list(gate.finish()) == [over if shown is None else Piece("tool", shown, 0, "c1", "book")]
        assert gate.summary() == said


@given(
    value=st.recursive(
        st.text('abst ecr"é\\\n', max_size=12) | st.integers() | st.floats(allow_nan=False) | st.none(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("secrt", max_size=7), inner, max_size=3)
        ),
    ),
    escaped=st.booleans(),
)
def test_what_a_rule_is_about_is_in_no_value_and_all_else_is_as_it_was(value, escaped):
    gate = gate_of(("secret", "secret", "rewrite:#"), hold=16)
    called(gate, json.dumps(value, ensure_ascii=escaped))
    (call,) = gate.finish()
    assert json.loads(call.text) == json.loads(json.dumps(value).replace("secret", "#"))
    if gate.summary() == "passed":
        assert call.text == json.dumps(value, ensure_ascii=escaped)


def test_calls_beside_each_other_are_held_apart_and_those_of_an_answer_that_failed_are_not_shown():
    def taken(gate):
        for text, name in (('{"a":', "c1"), ('{"b"', "c2"), ('"sec', "c1"), (":2}", "c2"), ('ret"}', "c1")):
            assert list(gate.take(Piece("tool", text, 0, name, "t"), 0.0)) == []
        return gate

    whole = [Piece("tool", '{"a":"[…]"}', 0, "c1", "t"), Piece("tool", '{"b":2}', 0, "c2", "t")]
    assert list(taken(gate_of(SECRET)).finish()) == whole
    broke = taken(gate_of(SECRET))
    assert list(broke.finish(whole=False)) == []
    assert broke.summary() == "passed dropped=21"
    assert called(gate_of(SECRET, tools=False), '{"a"', 99)[-1] == Piece("tool", '{"a"', 0, "c1", "book")


def test_while_a_call_is_held_back_its_stream_is_not_silent():
    gate, out = gate_of(SECRET), []
    for second in range(13):
        out += [
            (second, each) for each in gate.take(Piece("tool", '"secret" ', 0, "c1", "t"), 100.0 + second)
        ]
    assert out == [(second, Piece("tool", "", 0, "c1", "t")) for second in (5, 10)]


NAMES = ("heron", r"(?i)project heron|\b\d{7}\b", "rewrite:#"), ("stop", r"(?i)\bstop\b", "end:stopped")


@pytest.mark.parametrize(
    ("names", "shown", "said"),
    [
        (("c1", "book"), ("c1", "book"), "passed"),
        (("c1", "project heron is live"), ("c1", "# is live"), "rewritten heron=1"),
        (("Project Heron", "book"), ("gated_0", "book"), "rewritten heron=1"),
        (("5551234", "book"), ("gated_0", "book"), "rewritten heron=1"),
        (("stop", "book"), ("gated_0", "book"), "rewritten stop=1"),
        (("c1", "stop"), None, "ended:stopped stop=1"),
    ],
    ids=["neither", "tool", "words-as-id", "digits-as-id", "end-as-id", "ended"],
)
def test_names_of_a_tool_and_of_its_call_are_judged_before_anything_of_it_is_shown(names, shown, said):
    gate = gate_of(*NAMES)
    early = [each for at_s in (0.0, 5.0, 10.0) for each in gate.take(Piece("tool", "1", 0, *names), at_s)]
    if shown is None:
        assert early == [Failed("gate", "stopped")]
    else:
        assert early == [Piece("tool", "", 0, *shown)] * 2
        assert list(gate.finish()) == [Piece("tool", "111", 0, *shown)]
    assert gate.summary() == said


def test_calls_whose_own_names_are_not_shown_stay_apart():
    gate = gate_of(*NAMES)
    for call_id in ("project heron 1", "c1", "project heron 2", "project heron 1"):
        called(gate, "{}", names=(call_id, "book"))
    assert [(call.call_id, call.text) for call in gate.finish()] == [
        ("gated_0", "{}{}"),
        ("c1", "{}"),
        ("gated_2", "{}"),
    ]


def test_a_call_that_cannot_be_named_yet_is_not_named_by_a_sign_of_life():
    """A function is asked about the name with the arguments; clients keep a call's first name."""
    for gate, tool in ((gate_of(judge=lambda held: held.due), "book"), (gate_of(SECRET), "")):
        gate.take(Piece("tool", "1", 0, "c1", tool), 0.0)
        assert list(gate.take(Piece("tool", "2", 0, "c1", tool), 5.0)) == [Piece("text", "")]
        gate.take(Piece("tool", "", 0, "c1", "book"), 6.0)
        assert list(gate.finish()) == [Piece("tool", "12", 0, "c1", "book")]


def test_what_is_held_of_calls_is_bounded_and_comes_in_pieces_that_events_hold():
    gate = gate_of(SECRET)
    long = '"' + "x" * 150_000 + '"'
    assert called(gate, long, 50_000) == []
    pieces = gate.finish()
    assert ("".join(piece.text for piece in pieces), max(len(piece.text) for piece in pieces)) == (
        long,
        65_536,
    )
    for took in (
        [Piece("tool", "x" * 60_000, 0, "c1", "t")] * 9,
        [Piece("tool", "", 0, f"c{number}", "t") for number in range(129)],
    ):
        gate = gate_of(SECRET)
        out = [each for delta in took for each in gate.take(delta, 0.0)]
        assert [type(each) for each in out] == [Failed]
        assert "524288 characters, or there are 128 at once" in out[0].raw


def test_a_rule_is_about_the_channels_that_it_names():
    rules = ("tools", "secret", "end:no", ("tool",)), ("said", "secret", "rewrite:#", ("text", "reasoning"))
    gate = gate_of(*rules, reasoning=True)
    assert answer(gate, ["a secret"])[0] == "a #"
    assert answer(gate, ["a secret"], "reasoning")[0] == "a #"
    assert answer(gate, ["a secret"], "refusal")[0] == "a secret"
    assert called(gate, '"secret"') == []
    assert list(gate.finish()) == [Failed("gate", "no")]


def test_a_function_is_given_a_whole_call_with_its_name():
    seen: list[Held] = []

    def judge(held: Held):
        seen.append(held)
        return End("not that tool") if held.tool == "pay" else held.due.replace("1", "2")

    gate = gate_of(SECRET, judge=judge)
    called(gate, '{"a": "secret", "b": 1}')
    called(gate, "{}", names=("c2", "pay"))
    out = list(gate.finish())
    assert out == [Piece("tool", '{"a": "[…]", "b": 2}', 0, "c1", "book"), Failed("gate", "not that tool")]
    assert seen[0] == Held('{"a": "[…]", "b": 1}', "", "", "tool", last=True, tool="book")


def test_arguments_that_take_too_long_end_the_answer():
    gate = gate_of(("r", r"[a-z]+|\d", "pass"), hold=512)
    for number in range(3):  # each of them alone would do
        called(gate, json.dumps(["1 " * 400]), 65_536, names=(f"c{number}", "t"))
    *passed, over = gate.finish()
    assert [call.call_id for call in passed] == ["c0", "c1"]
    assert "looks at once" in over.raw
