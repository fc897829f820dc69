"""The gate holds back, judges, and nothing that a rule is about gets through, however the text is split."""

from __future__ import annotations

import re
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.llm import patterns
from connectors.llm.deltas import Failed, Media, Piece
from connectors.llm.errors import RouteRefused
from connectors.llm.gates import Gate, Shows, compile_gate
from connectors.llm.judges import End, Held, Instead, load_judges
from connectors.llm.patterns import LOOKS_MAX, Pattern
from connectors.llm.plan import GateOptions

SECRET = ("secret", r"secret\w*", "rewrite:[…]")
STOP = ("stop", r"(?i)\bstop\b", "end:stopped")
NUMBERS = ("numbers", r"\d{3}-\d{4}", "rewrite:#")
COUNTED = ("counted", "the", "pass")
RULES = (SECRET, STOP, NUMBERS, COUNTED)


def gate_of(*rules, hold=16, hold_ms=0, judge=None, **more):
    function = "tests:judge" if judge else ""
    options = GateOptions(hold, hold_ms, rules, function, **more)
    return Gate(compile_gate(options, {"tests:judge": judge} if judge else {}), clock=lambda: 0.0)


def answer(gate: Gate, pieces, channel="text") -> tuple[str, list[Shows]]:
    out = [delta for text in pieces for delta in gate.take(Piece(channel, text), 0.0)]
    out += gate.finish()
    return "".join(each.text for each in out if isinstance(each, Piece)), out


def split_at(text, cuts):
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(places)]


@pytest.mark.parametrize(
    ("text", "shown", "said"),
    [
        ("all is well", "all is well", "passed"),
        ("the secrets are out", "the […] are out", "rewritten counted=1 secret=1"),
        ("call 555-1234 now", "call # now", "rewritten numbers=1"),
        ("please STOP it", "please ", "ended:stopped stop=1"),
        ("unstoppable", "unstoppable", "passed"),
        ("secret stop secret", "[…] ", "ended:stopped secret=1 stop=1"),
    ],
)
def test_rules_act_on_pieces_of_one_character_as_on_the_whole(text, shown, said):
    for pieces in (list(text), [text]):
        gate = gate_of(*RULES)
        assert answer(gate, pieces)[0] == shown
        assert gate.summary() == said


@given(
    text=st.text(st.sampled_from("abc secrt-sop 123é😀\n"), max_size=80)
    | st.lists(st.sampled_from(["secret", "stop", " ", "555-1234", "secrets5", "th", "e", "-", "x"])).map(
        "".join
    ),
    cuts=st.lists(st.integers(0, 400)),
)
@example("a secretstop 555-12345", [])
@example("secret" * 12, [3, 17])
def test_any_split_of_a_text_gives_the_same_output_and_record(text, cuts):
    whole, parts = gate_of(*RULES), gate_of(*RULES)
    assert answer(whole, [text])[0] == answer(parts, split_at(text, cuts))[0]
    assert whole.summary() == parts.summary()


@given(
    text=st.text(st.sampled_from("abcx"), max_size=60),
    words=st.lists(
        st.text(st.sampled_from("abc"), min_size=1, max_size=8), min_size=1, max_size=4, unique=True
    ),
    cuts=st.lists(st.integers(0, 100)),
)
def test_no_character_of_what_a_rule_matches_is_shown(text, words, cuts):
    rules = [(f"r{number}", word, "rewrite:#") for number, word in enumerate(words)]
    shown, _ = answer(gate_of(*rules, hold=8), split_at(text, cuts))
    gone = {at for word in words for found in re.finditer(word, text) for at in range(*found.span())}
    assert shown.replace("#", "") == "".join(letter for at, letter in enumerate(text) if at not in gone)


@given(
    text=st.text(st.sampled_from("abcx"), max_size=60),
    words=st.lists(st.text(st.sampled_from("abc"), min_size=1, max_size=8), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 100)),
)
def test_an_answer_ends_before_the_first_of_what_must_not_be_said(text, words, cuts):
    rules = [(f"r{number}", word, "end:no") for number, word in enumerate(words)]
    shown, out = answer(gate_of(*rules, hold=8), split_at(text, cuts))
    first = min((at for word in words if (at := text.find(word)) >= 0), default=None)
    assert shown == text[:first]
    assert (Failed("gate", "no") in out) == (first is not None)


@given(text=st.text(max_size=200), cuts=st.lists(st.integers(0, 300)), hold=st.integers(0, 40))
def test_what_no_rule_is_about_is_not_changed(text, cuts, hold):
    rules = [("never", "never said", "rewrite:x")] if hold else []
    assert answer(gate_of(*rules, hold=hold), split_at(text, cuts))[0] == text


def test_no_more_is_held_back_than_was_asked_for():
    gate = gate_of(SECRET, hold=10)
    shown = 0
    for number in range(1, 500):
        shown += sum(len(each.text) for each in gate.take(Piece("text", "y"), 0.0))
        assert shown == max(0, number - 10)


def test_half_a_surrogate_pair_hides_nothing():
    gate = gate_of(SECRET)
    assert answer(gate, ["\ud83d a sec", "ret \udc00"])[0] == "? a […] ?"


def test_time_releases_what_waited_and_the_rest_of_a_match_is_still_caught():
    gate = gate_of(SECRET, ("out", "leaked", "end:leak"), hold=16, hold_ms=200)
    assert list(gate.take(Piece("text", "a sec"), 10.0)) == []
    assert list(gate.take(Piece("text", "x"), 10.1)) == []
    assert gate.due_s == pytest.approx(10.2)
    assert list(gate.tick(10.15)) == []
    assert list(gate.tick(gate.due_s)) == [Piece("text", "a sec")]
    assert gate.due_s == pytest.approx(10.3)
    assert list(gate.tick(10.3)) == [Piece("text", "x")]
    assert gate.due_s is None
    gate.take(Piece("text", " leak"), 11.0)
    assert [each.text for each in gate.tick(11.2)] == [" leak"]
    assert list(gate.take(Piece("text", "ed, and so on and on"), 11.3)) == [Failed("gate", "leak")]
    assert gate.summary() == "ended:leak out=1"


def test_time_releases_nothing_of_what_is_there_whole():
    gate = gate_of(SECRET, hold=64, hold_ms=100)
    gate.take(Piece("text", "my secret"), 0.0)
    assert list(gate.tick(0.1)) == [Piece("text", "my […]")]


def test_content_passes_in_order_and_calls_last():
    media, call = Media("image/png", 1, b"x"), Piece("tool", "{", 1, "c1", "look")
    took = [Piece("text", "hello "), Piece("text", "you"), call, Piece("text", "and", 2), media]
    took += [Piece("text", "end", 3)]
    texts = [Piece("text", "and", 2), media, Piece("text", "end", 3)]
    gate, by = gate_of(SECRET, hold=16), gate_of(SECRET, hold=16, tools=False)
    out = [each for delta in took for each in gate.take(delta, 0.0)]
    assert [*out, *gate.finish()] == [Piece("text", "hello you"), *texts, call]
    out = [each for delta in took for each in by.take(delta, 0.0)]
    assert [*out, *by.finish()] == [Piece("text", "hello you"), call, *texts]


def test_a_word_with_another_block_inside_is_still_seen():
    gate = gate_of(STOP, hold=16)
    out = [*gate.take(Piece("text", "now st"), 0.0), *gate.take(Piece("tool", "{", 1), 0.0)]
    out += gate.take(Piece("text", "op it"), 0.0)
    assert [*out, *gate.finish()][-1] == Failed("gate", "stopped")


def test_sound_goes_beside_its_transcript_and_lets_nothing_of_it_out():
    gate, out = gate_of(STOP, SECRET, hold=16), []
    for word in ("so s", "ecr", "et: st", "op"):
        sound = Media("audio/pcm;rate=24000", 0, word.encode())
        assert list(gate.take(sound, 0.0)) == [sound]
        out += gate.take(Piece("text", word), 0.0)
    assert [*out, *gate.finish()] == [Piece("text", "so […]: "), Failed("gate", "stopped")]


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        ("https://x.example/a.png?b=%20c", "https://x.example/a.png?b=%20c"),
        ("https://x.example/secrets", "https://x.example/[…]"),
        ("https://x.example/a%20%73ecret", "https://x.example/a […]"),
        ("https://x.example/555-1234/secret+x", "https://x.example/#/[…] x"),
        ("data:text/plain,stop", None),
        ("https://x.example/please+%53top", None),
    ],
)
@pytest.mark.parametrize("mime", ["image/png", "audio/pcm"])
def test_an_address_of_media_is_judged_as_it_says_and_as_it_is_written(reference, shown, mime):
    gate = gate_of(*RULES, hold=64)
    out = [*gate.take(Piece("text", "see this: "), 0.0), *gate.take(Media(mime, 0, b"", reference), 0.0)]
    out += gate.finish()
    last = Failed("gate", "stopped") if shown is None else Media(mime, 0, b"", shown)
    assert sorted(out, key=str) == sorted([Piece("text", "see this: "), last], key=str)
    assert gate.summary().startswith("ended" if shown is None else "passed" if shown == reference else "rewr")


def test_an_address_that_rules_take_away_or_make_longer_is_bounded():
    gone = gate_of(("all", r".+", "rewrite:"), hold=512)
    assert list(gone.take(Media("image/png", 0, b"", "https://x.example"), 0.0)) == []
    longer = gate_of(("a", "a", "rewrite:" + "b" * 1_000))
    (media,) = longer.take(Media("image/png", 0, b"", "a" * 8_192), 0.0)
    assert len(media.reference) == 8_192


def test_media_that_nobody_judges_may_be_refused():
    gate = gate_of(SECRET, media="drop")
    took = [
        Piece("text", "a sec"),
        Media("audio/pcm", 0, b"x"),
        Media("image/png", 1, b"x"),
        Piece("text", "ret"),
    ]
    assert [each for delta in took for each in gate.take(delta, 0.0)] == []
    assert list(gate.finish()) == [Piece("text", "a […]")]
    assert gate.summary() == "rewritten media=2 secret=1"


def test_reasoning_is_judged_if_it_is_asked_for():
    assert answer(gate_of(SECRET), ["secret"], "reasoning")[0] == "secret"
    assert answer(gate_of(SECRET, reasoning=True), ["secret"], "reasoning")[0] == "[…]"
    assert answer(gate_of(SECRET), ["secret"], "refusal")[0] == "[…]"


@pytest.mark.parametrize("cut", range(1, 13))
def test_an_answer_that_goes_on_is_judged_over_the_seam_and_nothing_is_told_twice(cut):
    two = ("heron", "project heron", "end:secret"), ("a", "a ", "pass")
    rules = compile_gate(GateOptions(16, 0, two), {})
    text = "a project heron"
    first = Gate(rules)
    assert answer(first, [text[: cut + 2]])[0] == text[: cut + 2]
    assert first.summary() == "passed a=1"
    second = Gate(rules, before=text[: cut + 2])
    shown, deltas = answer(second, [text[cut + 2 :], " is a "])
    assert (shown, deltas[-1]) == ("", Failed("gate", "secret"))
    assert second.summary() == "ended:secret heron=1"


def test_of_a_text_that_broke_off_what_is_held_back_is_shown_to_nobody():
    gate = gate_of(NUMBERS, hold=16)
    out = [*gate.take(Piece("text", "call me at 555-1234 or at 555-99"), 0.0)]
    assert out == [Piece("text", "call me at #")]
    assert list(gate.finish(whole=False)) == []
    assert gate.summary() == "rewritten numbers=1 dropped=13"


def test_of_a_refusal_its_own_words_are_shown_and_no_call():
    gate = gate_of(NUMBERS)
    gate.take(Piece("tool", "{}", 0, "c1", "dial"), 0.0)
    gate.take(Piece("text", "call 555"), 0.0)
    gate.take(Piece("refusal", "no 555-1234"), 0.0)
    assert list(gate.finish(whole=False, refusal=True)) == [Piece("refusal", "no #")]
    assert gate.summary() == "rewritten numbers=1 dropped=10", "the call, and the text before the refusal"


def test_after_its_end_a_gate_gives_nothing():
    gate = gate_of(STOP, hold=16)
    gate.take(Piece("text", "stop. and much more of it"), 0.0)
    assert list(gate.take(Piece("text", "more"), 0.0)) == []
    assert list(gate.finish()) == []
    assert gate.due_s is None


def test_a_function_sees_what_is_due_what_is_ahead_and_what_was_shown():
    seen: list[Held] = []

    def judge(held: Held):
        seen.append(held)
        return held.due.upper()

    gate = gate_of(SECRET, hold=6, judge=judge)
    assert answer(gate, ["abcdefgh", "ij secret"])[0] == "ABCDEFGHIJ […]"
    assert seen[0] == Held("ab", "cdefgh", "", "text", last=False)
    assert seen[-1].last
    assert seen[-1].shown == "ABCDEFGHIJ "
    assert gate.summary().startswith("rewritten function=")


def test_a_function_ends_an_answer_and_the_record_says_why():
    gate = gate_of(judge=lambda held: End("rude") if "fool" in held.due + held.ahead else held.due, hold=8)
    shown, out = answer(gate, ["you are such a ", "fo", "ol"])
    assert "fool" not in shown
    assert out[-1] == Failed("gate", "rude")
    assert gate.summary() == "ended:rude function=1"


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        (lambda held: 1 // 0, "function tests:judge raised ZeroDivisionError"),
        (lambda held: Instead("", 99), "function tests:judge spoke of 99 characters, and has others"),
        (lambda held: None, "function tests:judge gave NoneType, not str, Instead or End"),
    ],
    ids=["raises", "takes what is not there", "gives nothing"],
)
def test_a_function_that_fails_lets_nothing_through(judge, said):
    assert answer(gate_of(judge=judge), ["some text"]) == ("", [Failed("gate", said)])


@pytest.mark.parametrize("size", [1, 3, 99])
def test_the_example_of_the_docs_judges_numbers_and_insults(size, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "docs" / "examples"))
    judge = load_judges(["gate_numbers:judge"])["gate_numbers:judge"]

    def shown(text):
        gate = gate_of(hold=24, judge=judge)
        return answer(gate, [text[at : at + size] for at in range(0, len(text), size)])[0], gate.summary()

    assert shown("call 555-0100, or 555-0199 at night")[0] == "call 555-0100, or [number removed] at night"
    assert shown("well, you idiot")[1] == "ended:insult function=1"


def test_a_function_that_takes_too_long_lets_nothing_through():
    times = iter([0.0, 0.2])
    options = GateOptions(function="t:slow")
    gate = Gate(compile_gate(options, {"t:slow": lambda held: held.due}), clock=lambda: next(times))
    assert answer(gate, ["text"]) == ("", [Failed("gate", "function t:slow took 200 ms, at most 50")])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (GateOptions(rules=(SECRET,)), "rules need hold_characters"),
        (GateOptions(hold_characters=513), "hold_characters is 513"),
        (GateOptions(hold_characters=-1), "hold_characters is -1"),
        (GateOptions(hold_ms=-1), "hold_ms is -1"),
        (GateOptions(9, rules=(("a b", "x", "pass"),)), "rule 'a b'"),
        (GateOptions(9, rules=(("a", "x", "pass"), ("a", "y", "pass"))), "two rules are named a"),
        (GateOptions(9, rules=(("a", "x", "drop"),)), "rule a: its action is"),
        (GateOptions(9, rules=(("a", "x", "pass", ("all",)),)), "rule a: its channels are some of text"),
        (GateOptions(9, rules=(("a", "x", "pass", ()),)), "rule a: its channels are some of text"),
        (
            GateOptions(9, rules=(("a", "x", "pass", ("text", "reasoning")),)),
            "rule a is about reasoning, which does not pass",
        ),
        (GateOptions(9, rules=(("a", "x", "pass", ("tool",)),), tools=False), "rule a is about tool, which"),
        (GateOptions(9, rules=(("a", "x", "end:"),)), "rule a: its action is"),
        (GateOptions(9, rules=(("a", "(", "pass"),)), "rule a: unclosed group"),
        (GateOptions(9, rules=(("a", "(?=x)", "pass"),)), "look-around"),
        (GateOptions(9, rules=(("a", "a)(?:b", "pass"),)), "rule a: unopened group"),
        (GateOptions(9, rules=(("a", "(.{0,45}){0,45}b", "pass"),)), "multiply to 2025"),
        (GateOptions(9, rules=(("a", r"\w{1000}", "pass"),)), "KiB compiled, at most 2048"),
        (GateOptions(9, rules=(("a", "", "pass"),)), "has 0 characters"),
        (GateOptions(9, rules=tuple((f"r{n}", "x", "pass") for n in range(65))), "65 rules, at most 64"),
        (GateOptions(function="os:system"), "was not started with function os:system"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_refused_by_name(options, said):
    with pytest.raises(RouteRefused, match=re.escape(said)) as refused:
        compile_gate(options, {})
    assert refused.value.remedy


def test_expressions_that_python_would_never_finish_are_no_trouble():
    evil = [("a", "(a|aa)+$x", "end:a"), ("b", "(x+x+)+y", "end:b"), ("c", "(a*)*b", "end:c")]
    text = "a" * 300 + "x" * 300
    assert answer(gate_of(*evil, hold=64), [text])[0] == text


@pytest.mark.parametrize(
    ("rule", "text", "ends"),
    [
        (("r", r"[a-z]+|\d", "pass"), "1 " * 32_768, True),
        (("r", r"x.*$", "pass"), "x" * 65_536, True),
        (("r", r"\bheron\b", "rewrite:#"), "a b c " * 10_000 + "heron", False),
        (("r", r"\d{3}-\d{4}", "rewrite:#"), "555-1234 " * 7_000, False),
    ],
    ids=["each-digit", "never-whole", "once", "often"],
)
def test_a_piece_takes_a_bounded_number_of_looks_or_ends_the_answer(rule, text, ends):
    gate = gate_of(rule, hold=512)
    shown, out = answer(gate, [text])
    assert (out[-1] == Failed("gate", f"its rules take more than {LOOKS_MAX} looks at once")) == ends
    if not ends:
        assert shown == text.replace("heron", "#").replace("555-1234", "#")


@contextmanager
def stride_of(places):
    before, patterns._STRIDE = patterns._STRIDE, places
    yield
    patterns._STRIDE = before


@given(
    text=st.text(st.sampled_from("ab \n"), max_size=40),
    start=st.integers(0, 40),
    expression=st.sampled_from(
        ["a", "ab+", r"\ba", r"a\b", "^a", "a$", "(?m)^a", "(?m)a$", "b*a", "[ab]{2,5}", "a?"]
    ),
)
def test_places_that_are_passed_over_have_no_match(text, start, expression):
    found = Pattern(expression)
    with stride_of(10_000):
        one = found.find(text, start, len(text), 6)
    for stride in (1, 2, 7):
        with stride_of(stride):
            assert found.find(text, start, len(text), 6) == one


@pytest.mark.parametrize("name", ["nowhere", "nowhere:f", "math:nothing", "math:pi", ":f"])
def test_a_function_that_is_not_there_is_said_at_start(name):
    with pytest.raises(RouteRefused, match=re.escape(name)):
        load_judges([name])
    assert load_judges(["math:sqrt"])["math:sqrt"](9.0) == 3.0


@pytest.mark.parametrize(
    ("expression", "looks"), [(r"\d", 1), (r"[0-9]{2,3}", 15), (r"\+\d", 2), (r"\d+", 512), (r"a{1,}\d", 512)]
)
def test_a_match_is_looked_for_no_further_than_it_can_reach(expression, looks):
    found = Pattern(expression)
    text = "+1a1" * 500
    first = found.find(text, 0, 8, 512)
    assert first is None or first == found.find(text, 0, 8, 5)
    asked: list[str] = []
    between = found._around.between if found._around else {}
    for sides, look in tuple(between.items()):
        between[sides] = lambda given, look=look: asked.append(given) or look(given)
    found.find(text, 0, 8, 512)
    assert len(asked) <= looks
