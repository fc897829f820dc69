"""Which providers are tried, in which order, and what comes after a failure."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.llm.book import Book
from connectors.llm.calls import Call, Target, Tool
from connectors.llm.errors import CallRefused, RouteRefused
from connectors.llm.fallback import OF_PROVIDER, SHORTEST_MS, can_be_continued, continued, decide
from connectors.llm.figures import Figures
from connectors.llm.ledger import Attempt
from connectors.llm.plan import Choice, Next, Plan, Stop, Tried
from connectors.llm.request import request_of
from connectors.llm.route import FALLBACK_ON, NEVER, route_config
from connectors.llm.routing import draw_of, plan

OPENAI = Target("openai", "openai-chat", "https://api.openai.com/v1")
CLAUDE = Target(
    "anthropic", "anthropic", "https://api.anthropic.com/v1", models=("claude-haiku-4-5", "claude-*")
)
LOCAL = Target("local", "ollama", "http://127.0.0.1:11434")
TARGETS = {one.name: one for one in (OPENAI, CLAUDE, LOCAL)}


def asked(**fields):
    """A request that asks one thing."""
    record = {
        "tenant": "default", "stream_id": "s1", "kind": "llm", "request_id": "", "task_id": "",
        "traceparent": "", "source": "", "time_us": 0, "opened": True, "route": "default", "model": "",
        "prompt": "", "prompt_label": "production", "variables_json": "", "messages_json": "",
        "tools_json": "", "schema_json": "", "schema_name": "", "params_json": "", "deadline_ms": 0,
        "after_content": "", "side_effects": False, "open_id": "", "on_invalid": "",
        "no_reset": False,
    }  # fmt: skip
    messages = fields.pop("messages", [{"role": "user", "content": "Why is the sky blue?"}])
    return request_of(record | {"messages_json": orjson.dumps(messages).decode()} | fields)


def book_with(route=None, name="default", targets=TARGETS):
    book = Book(targets)
    if route is not None:
        put(book, name, 1, route)
        assert not book.refused
    return book


def put(book, name, version, route):
    record = {"name": name, "version": version, "config_json": orjson.dumps(route).decode()}
    book.take_route(f"{name}/{version}".encode(), record)


def planned(book, request=None, figures=None, stream="s1"):
    return plan(request or asked(), book, figures or Figures(), draw_of("default", stream))


def names(made):
    return [f"{choice.target.name}/{choice.model}" for choice in made.choices]


# -- the plan ---------------------------------------------------------------------------------------------


def test_without_a_record_providers_are_asked_in_the_order_of_the_settings():
    book = book_with()
    assert names(planned(book)) == ["anthropic/claude-haiku-4-5"], "the only one with a model of its own"
    assert names(planned(book, asked(model="gpt-4o"))) == ["openai/gpt-4o", "local/gpt-4o"]
    assert names(planned(book, asked(model="claude-opus-4-5"))) == [
        "openai/claude-opus-4-5", "anthropic/claude-opus-4-5", "local/claude-opus-4-5",
    ]  # fmt: skip


def test_a_pattern_is_never_asked_for():
    wild = replace(OPENAI, models=("gpt-*", "gpt-4o-mini"))
    book = book_with(targets={"openai": wild})
    assert names(planned(book)) == ["openai/gpt-4o-mini"]
    assert names(planned(book, asked(model="gpt-5"))) == ["openai/gpt-5"]
    many = {f"p{number}": replace(wild, name=f"p{number}") for number in range(32)}
    assert len(planned(book_with(targets=many)).choices) == 32


def test_a_model_named_with_its_provider_goes_there_alone():
    assert names(planned(book_with(), asked(model="local/llama3.2"))) == ["local/llama3.2"]
    assert names(planned(book_with(), asked(model="meta/llama3.2"))) == [
        "openai/meta/llama3.2",
        "local/meta/llama3.2",
    ]


@pytest.mark.parametrize("model", ["x" * 129, "a\nb", "é" * 65], ids=["long", "line", "bytes"])
def test_a_name_that_no_record_could_hold_is_refused(model):
    with pytest.raises(CallRefused, match="model: is more than 128 bytes"):
        planned(book_with(), asked(model=model))
    with pytest.raises(RouteRefused, match=r"candidates\.0\.model"):
        route_config(orjson.dumps({"candidates": [{"target": "openai", "model": model}]}).decode(), "default")


def test_a_request_that_fits_no_candidate_is_told_so():
    book = book_with(
        {"candidates": [{"target": "openai", "model": "gpt-4o", "when": {"tenants": ["other"]}}]}
    )
    with pytest.raises(CallRefused, match="no candidate for a request that names no model"):
        planned(book)


def test_an_unknown_route_is_refused_and_the_known_ones_are_named():
    with pytest.raises(RouteRefused, match="no route 'helpdesk'") as refused:
        planned(
            book_with({"candidates": [{"target": "openai", "model": "m"}]}, "help"), asked(route="helpdesk")
        )
    assert "default, help" in refused.value.remedy


def test_a_provider_that_this_worker_does_not_have_is_passed_over_or_named():
    absent = {"target": "mistral", "model": "m"}
    assert names(planned(book_with({"candidates": [absent, {"target": "openai", "model": "m"}]}))) == [
        "openai/m"
    ]
    with pytest.raises(RouteRefused, match="mistral") as refused:
        planned(book_with({"candidates": [absent]}))
    assert "SLUICEGATE_LLM__PROVIDERS__MISTRAL__API_KEY" in refused.value.remedy


def test_without_any_provider_nothing_can_be_called():
    with pytest.raises(RouteRefused, match="no provider is configured"):
        planned(book_with(targets={}))


TOOL = '[{"name": "f", "description": "", "parameters": {}}]'
PICTURE = [{"role": "user", "content": [{"type": "media", "mime": "image/png", "data": "AA=="}]}]


@pytest.mark.parametrize(
    ("when", "fits", "fits_not"),
    [
        ({"tools": True}, {"tools_json": TOOL}, {}),
        ({"tools": False}, {}, {"tools_json": TOOL}),
        ({"schema": True}, {"schema_json": "{}"}, {}),
        ({"schema": False}, {}, {"schema_json": "{}"}),
        ({"media": True}, {"messages": PICTURE}, {}),
        ({"media": False}, {}, {"messages": PICTURE}),
        ({"tenants": ["acme"]}, {"tenant": "acme"}, {}),
        ({"models": ["gpt-*"]}, {"model": "gpt-4o"}, {"model": "claude"}),
    ],
    ids=["tools", "no-tools", "schema", "no-schema", "media", "no-media", "tenant", "model"],
)
def test_a_condition_chooses(when, fits, fits_not):
    others = {"target": "openai", "model": "b", "when": {"models": ["*"]}}
    book = book_with({"candidates": [{"target": "openai", "model": "a", "when": when}, others]})
    assert names(planned(book, asked(**fits))) == ["openai/a", "openai/b"]
    assert names(planned(book, asked(**fits_not))) == ["openai/b"]


def test_a_model_that_a_route_was_not_made_for_is_not_answered_by_another():
    fixed = [{"target": "openai", "model": "gpt-4o"}, {"target": "anthropic", "model": "claude"}]
    book = book_with({"candidates": fixed})
    assert names(planned(book, asked(model="gpt-4o"))) == ["openai/gpt-4o", "anthropic/claude"], "falls back"
    assert names(planned(book, asked(model="anthropic/claude"))) == ["anthropic/claude"]
    for strange in ("gpt-4o-mni", "anthropic/gpt-4o"):
        with pytest.raises(CallRefused, match="no candidate for model") as refused:
            planned(book, asked(model=strange))
        assert refused.value.remedy.startswith("Name one of gpt-4o, claude; or add a candidate")
    aliased = [{**fixed[0], "when": {"models": ["fast", "gpt-*"]}}, fixed[1]]
    assert names(planned(book_with({"candidates": aliased}), asked(model="fast"))) == [
        "openai/gpt-4o", "anthropic/claude",
    ]  # fmt: skip


def test_who_names_an_unknown_model_is_told_those_that_the_tenant_can_name_and_how_one_is_added():
    of_settings = book_with(targets={"anthropic": CLAUDE})
    with pytest.raises(CallRefused) as refused:
        planned(of_settings, asked(model="gpt-4o"))
    assert refused.value.remedy == (
        "Name one of claude-haiku-4-5, claude-*; or add it to a provider's models "
        "(SLUICEGATE_LLM__PROVIDERS__NAME__MODELS)."
    )
    mine = [{"target": "openai", "model": f"m{number}"} for number in range(11)]
    others = {"target": "openai", "model": "secret", "when": {"tenants": ["acme"]}}
    with pytest.raises(CallRefused) as refused:
        planned(book_with({"candidates": [others, *mine]}), asked(model="m99"))
    assert refused.value.remedy.startswith("Name one of m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, …; or add")


def test_weights_share_streams_and_a_stream_keeps_its_order():
    weights = {"openai": 70, "anthropic": 20, "local": 10}
    book = book_with(
        {
            "policy": "weighted",
            "candidates": [{"target": name, "model": "m", "weight": one} for name, one in weights.items()],
        }
    )
    plans = [names(planned(book, stream=f"s{number}")) for number in range(2_000)]
    assert plans == [names(planned(book, stream=f"s{number}")) for number in range(2_000)]
    assert all(len(set(made)) == 3 for made in plans)
    for name, weight in weights.items():
        share = sum(made[0] == f"{name}/m" for made in plans) / 20
        assert abs(share - weight) < 5, (name, share)
    seconds = [made[1] for made in plans if made[0] == "openai/m"]
    assert abs(seconds.count("anthropic/m") / len(seconds) - 2 / 3) < 0.06, "the rest by the rest's weights"


def test_the_cheapest_is_first_and_what_has_no_price_is_not_taken_for_free():
    book = book_with(
        {
            "policy": "cheapest",
            "candidates": [
                {"target": "local", "model": "m"},
                {"target": "openai", "model": "gpt-4o"},
                {"target": "openai", "model": "gpt-4o-mini"},
            ],
        }
    )
    assert names(planned(book)) == ["openai/gpt-4o-mini", "openai/gpt-4o", "local/m"]


def settled(provider, first_ms, *, state="completed", started_us=1_000_000_000, tokens=100):
    first = started_us + first_ms * 1_000 if first_ms else 0
    return Attempt(
        tenant="default", stream_id="s", kind="llm", attempt=1, epoch=0, state=state, provider=provider,
        model="m", started_us=started_us, first_content_us=first,
        last_content_us=first + 1_000_000 if first else 0,
        ended_us=started_us + 2_000_000, output_tokens=tokens,
    )  # fmt: skip


def test_the_fastest_of_late_is_first_then_the_unknown_then_who_fails(monkeypatch):
    figures = Figures()
    for provider, first_ms, state in [
        ("openai", 900, "completed"), ("anthropic", 300, "completed"), ("local", 0, "failed"),
    ]:  # fmt: skip
        for _ in range(3):
            figures.take(settled(provider, first_ms, state=state))
    monkeypatch.setattr("connectors.llm.figures.time.time_ns", lambda: 1_010_000_000_000)
    route = {
        "policy": "fastest", "explore": 0.0,
        "candidates": [{"target": name, "model": "m"} for name in ("local", "new", "openai", "anthropic")],
    }  # fmt: skip
    targets = TARGETS | {"new": replace(OPENAI, name="new")}
    book = book_with(route, targets=targets)
    assert names(planned(book, figures=figures)) == ["anthropic/m", "openai/m", "new/m", "local/m"]
    for _ in range(9):
        figures.take(replace(settled("anthropic", 0, state="failed"), error_class="bad_request"))
    assert names(planned(book, figures=figures))[0] == "anthropic/m", "what was asked badly is not its fault"
    later = 1_000_000_000 + 3_600_000_000
    assert figures.answer_ms("anthropic", "m", later) is None, "what is old counts no more"
    book = book_with(route | {"explore": 0.5}, targets=targets)
    firsts = {names(planned(book, figures=figures, stream=f"s{number}"))[0] for number in range(200)}
    assert firsts == {"anthropic/m", "openai/m", "new/m", "local/m"}, "exploring reaches all"


def test_a_route_bounds_what_a_request_asks_for():
    book = book_with(
        {"candidates": [{"target": "openai", "model": "m"}], "max_output_tokens": 100, "deadline_ms": 5_000}
    )
    assert planned(book).call.params.max_output_tokens == 100
    assert planned(book, asked(params_json='{"max_output_tokens": 50}')).call.params.max_output_tokens == 50
    assert planned(book, asked(params_json='{"max_output_tokens": 500}')).call.params.max_output_tokens == 100
    assert planned(book, asked(deadline_ms=60_000)).deadline_ms == 5_000
    assert planned(book, asked(deadline_ms=1_000, after_content="surface")).after_content == "surface"


# -- the book ---------------------------------------------------------------------------------------------


def test_a_version_that_is_not_valid_leaves_the_one_before_in_force():
    book = book_with({"candidates": [{"target": "openai", "model": "one"}]})
    put(book, "default", 2, {"candidates": [{"target": "openai", "modle": "two"}]})
    book.take_route(b"default/3", None)
    assert names(planned(book)) == ["openai/one"]
    assert (planned(book).route_version, book.refused) == (1, 2)
    put(book, "default", 4, {"candidates": [{"target": "openai", "model": "four"}]})
    put(book, "default", 3, {"candidates": [{"target": "openai", "model": "three"}]})
    assert (names(planned(book)), planned(book).route_version) == (["openai/four"], 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"candidates": []}, "candidates"),
        ({"polcy": "ordered"}, "polcy"),
        ({"attempts_max": 99}, "attempts_max"),
        ({"attempts_max": "4"}, "attempts_max"),
        ({"fallback_on": ["cancelled"]}, "cancelled leads to no other"),
        ({"fallback_on": ["server", "status:399"]}, "item 1 is no error class, and none of status:400 to"),
        ({"fallback_on": ["status:4090"]}, "item 0 is no error class"),
        ({"fallback_on": ["overlaoded"]}, "item 0 is no error class"),
        ({"after_content": "continue"}, "can_continue"),
        ({"gate": {"hold_characters": 9, "rules": [["card", "(", "end:card"]]}}, "rule card: unclosed group"),
        (
            {"gate": {"hold_characters": 9, "rules": [["card", "x", "drop"]]}},
            "its action is pass, rewrite:TEXT",
        ),
        ({"timers": {"connect_ms": 0}}, "timers.connect_ms"),
        ({"candidates": [{"target": "a b", "model": "m"}]}, "candidates.0.target"),
    ],
    ids=[
        "empty", "unknown", "many", "text", "cancelled", "status", "long", "misspelt", "continue", "rule",
        "action", "timer", "name",
    ],
)  # fmt: skip
def test_a_route_is_checked_field_by_field(change, said):
    text = orjson.dumps({"candidates": [{"target": "openai", "model": "m"}]} | change).decode()
    with pytest.raises(RouteRefused, match=said):
        route_config(text, "default")


def test_of_a_list_whose_member_is_wrong_the_member_alone_is_told():
    with pytest.raises(RouteRefused, match=r"default: candidates\.0\.modle: Extra inputs are not permitted$"):
        route_config('{"candidates": [{"target": "openai", "modle": "m"}]}', "default")


# -- what comes next --------------------------------------------------------------------------------------

CHOICES = [
    Choice(OPENAI, "a"),
    Choice(OPENAI, "b"),
    Choice(CLAUDE, "c", retries=0),
    Choice(LOCAL, "d", retries=2),
]


def made(**fields):
    return Plan(Call("", [{"role": "user", "content": "?"}]), CHOICES, frozenset(FALLBACK_ON), **fields)


def failed(choice, error, **fields):
    return Tried(choice.target.name, choice.model, error, **({"had_content": False} | fields))


def test_the_first_is_tried_first_then_again_then_the_next():
    tried, seen = [], []
    for _ in range(8):
        step = decide(made(attempts_max=16), tried, 0)
        if isinstance(step, Stop):
            break
        seen.append((step.choice.model, step.why))
        tried.append(failed(step.choice, "overloaded"))
    assert seen == [
        ("a", "first"), ("a", "retry"), ("b", "fallback"), ("b", "retry"), ("c", "fallback"),
        ("d", "fallback"), ("d", "retry"), ("d", "retry"),
    ]  # fmt: skip
    assert "no provider of the route is left of 4" in decide(made(attempts_max=16), tried, 0).message


def test_retry_after_is_honoured_or_the_next_is_asked():
    a = CHOICES[0]
    assert decide(made(), [failed(a, "rate_limited", retry_after_ms=4_000)], 0) == Next(a, "retry", 4_000)
    step = decide(made(), [failed(a, "rate_limited", retry_after_ms=60_000)], 0)
    assert (step.choice.model, step.why, step.wait_ms) == ("b", "fallback", 0)
    alone = replace(made(), choices=CHOICES[:1])
    patient = replace(alone, retry_wait_ms_max=600_000)
    assert decide(patient, [failed(a, "rate_limited", retry_after_ms=60_000)], 0).wait_ms == 60_000
    stop = decide(patient, [failed(a, "rate_limited", retry_after_ms=599_950)], 0)
    assert isinstance(stop, Stop), "the wait would pass the deadline"
    stop = decide(alone, [failed(a, "rate_limited", retry_after_ms=60_000)], 0)
    assert "it asks to wait for 60.0 s, the route waits for 5.0 at most" in stop.message
    impatient = replace(alone, retry_wait_ms_max=0)
    assert decide(impatient, [failed(a, "server")], 0).why == "retry", "a back-off is not the provider's wish"


def test_a_spent_limit_is_no_reason_to_ask_the_same_account_again():
    step = decide(made(), [failed(CHOICES[0], "spend_limited", retry_after_ms=1_000)], 0)
    assert (step.choice, step.why) == (CHOICES[2], "fallback"), "not its other model either"


@pytest.mark.parametrize("error", ["bad_request", "content_refused"])
def test_what_the_route_does_not_fall_back_on_ends(error):
    stop = decide(made(), [failed(CHOICES[0], error)], 0)
    assert error.replace("_", " ") in stop.message
    other = decide(replace(made(), fallback_on=frozenset({error})), [failed(CHOICES[0], error)], 0)
    assert (other.choice.model, other.why) == ("b", "fallback")


def test_a_route_can_fall_back_on_a_status_whatever_its_class():
    plan = replace(made(), fallback_on=frozenset({"status:409"}))
    step = decide(plan, [failed(CHOICES[0], "bad_request", status=409)], 0)
    assert (step.choice.model, step.why) == ("b", "fallback")
    other = decide(plan, [failed(CHOICES[0], "bad_request", status=400)], 0)
    assert isinstance(other, Stop)
    assert "the route tries no other provider after that" in other.message


def test_nothing_is_restarted_after_a_tool_that_cannot_be_taken_back():
    tried = [failed(CHOICES[0], "truncated", had_content=True, had_tool_call=True)]
    assert isinstance(decide(made(side_effects=True), tried, 0), Stop)
    assert decide(made(), tried, 0).why == "restart"


def test_of_an_attempt_whose_worker_died_nobody_can_say_that_no_tool_was_called():
    tried = [failed(CHOICES[0], "crashed", had_content=True)]
    with_tools = Call("", [], tools=[Tool("pay", "", {})])
    assert isinstance(decide(replace(made(side_effects=True), call=with_tools), tried, 0), Stop)
    assert decide(replace(made(), call=with_tools), tried, 0).why == "crash"
    assert decide(made(side_effects=True), tried, 0).why == "crash", "there was none to be called"


def test_after_content_the_declared_mode_decides():
    a, shown = CHOICES[0], [failed(CHOICES[0], "server", had_content=True)]
    assert isinstance(decide(made(after_content="surface"), shown, 0), Stop)
    assert decide(made(after_content="restart"), shown, 0).why == "restart"
    assert decide(made(after_content="resume"), shown, 0).why == "restart", "it could not be gone on with"
    able = replace(a, can_continue=True)
    assert decide(replace(made(after_content="continue"), choices=[able]), shown, 0).why == "continue"
    assert decide(made(after_content="continue"), shown, 0).why == "restart", "nobody has tried"
    with_schema = Call("", [], schema={})
    schema = replace(made(after_content="continue"), choices=[able], call=with_schema)
    assert decide(schema, shown, 0).why == "restart", "half of a JSON text is not gone on with"


def test_what_was_shown_stays_in_mind_over_attempts_that_showed_nothing():
    able = replace(CHOICES[0], can_continue=True)
    tried = [failed(able, "server", had_content=True), failed(able, "server")]
    going_on = replace(made(after_content="continue", attempts_max=9), choices=[replace(able, retries=5)])
    assert decide(going_on, tried, 0).why == "continue"
    assert isinstance(decide(replace(going_on, after_content="surface"), tried, 0), Stop)


def test_an_answer_is_gone_on_with_as_it_stands_or_not_at_all():
    call = continued(Call("m", [{"role": "user", "content": "?"}]), "The sky")
    assert call.messages == [{"role": "user", "content": "?"}, {"role": "assistant", "content": "The sky"}]
    assert can_be_continued("The sky")
    assert not can_be_continued("")
    assert not can_be_continued("The sky\n"), "some providers refuse white space at the end"


def test_a_crash_is_not_the_providers_fault_and_its_route_may_have_changed():
    a = CHOICES[0]
    crashed = [failed(a, "crashed", had_content=True), failed(a, "crashed", had_content=True)]
    assert decide(made(), crashed, 0) == Next(a, "crash", 0)
    assert isinstance(decide(made(attempts_max=2), crashed, 0), Stop)
    gone = [Tried("mistral", "m", "crashed", had_content=False)]
    assert decide(made(), gone, 0) == Next(a, "fallback")


ERRORS = sorted({*FALLBACK_ON, *NEVER, "bad_request", "content_refused"})


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_it_always_ends_within_attempts_and_deadline_and_calls_nobody_excluded(data):
    """Whatever fails, however long it takes: all bounds hold at each step."""
    draw = data.draw
    choices = [
        replace(choice, retries=draw(st.integers(0, 10)), can_continue=draw(st.booleans()))
        for choice in CHOICES
    ][: draw(st.integers(1, 4))]
    going = Plan(
        Call("", []),
        choices,
        draw(st.frozensets(st.sampled_from(ERRORS))),
        after_content=draw(st.sampled_from(["resume", "restart", "continue", "surface"])),
        attempts_max=draw(st.integers(1, 16)),
        deadline_ms=draw(st.integers(1_000, 100_000)),
        side_effects=draw(st.booleans()),
        no_reset=draw(st.booleans()),
    )
    tried, elapsed = [], 0
    while True:
        step = decide(going, tried, elapsed, chance=draw(st.floats(0, 0.999)))
        if isinstance(step, Stop):
            assert step.message
            break
        assert len(tried) < going.attempts_max
        assert elapsed + step.wait_ms + SHORTEST_MS <= going.deadline_ms
        assert step.choice in choices
        refused = {one.target for one in tried if one.error_class in OF_PROVIDER}
        assert step.choice.target.name not in refused
        assert not (going.side_effects and any(one.had_tool_call for one in tried))
        same = [
            one for one in tried if (one.target, one.model) == (step.choice.target.name, step.choice.model)
        ]
        assert sum(one.error_class != "crashed" for one in same) <= step.choice.retries
        shown = any(one.had_content for one in tried)
        assert not (shown and going.after_content == "surface")
        assert not (shown and going.no_reset and step.why != "continue")
        assert shown or step.why in ("first", "retry", "fallback", "crash")
        if tried and step.why == "retry":
            assert tried[-1].retry_after_ms <= min(step.wait_ms, going.retry_wait_ms_max)
        elapsed += step.wait_ms + draw(st.integers(0, 20_000))
        tried.append(
            failed(
                step.choice,
                draw(st.sampled_from(ERRORS)),
                had_content=draw(st.booleans()),
                had_tool_call=draw(st.booleans()),
                retry_after_ms=draw(st.sampled_from([0, 0, 500, 30_000])),
            )
        )
    assert len(tried) <= going.attempts_max
