"""A request that is wrong is refused in a few words, and one that nobody can be told of names no stream."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm.book import Book
from connectors.llm.calls import Call, Target
from connectors.llm.desk import RoutingDesk
from connectors.llm.errors import MESSAGE_MAX, CallRefused, LlmError
from connectors.llm.kept import kept_input
from connectors.llm.ledger import Attempt
from connectors.llm.providers import PROVIDERS
from connectors.llm.request import NAME_BYTES_MAX, asks_of, envelope_of, request_of
from schemas.errors import InvalidEvent

RECORD: dict[str, Any] = {
    "tenant": "acme", "stream_id": "s", "kind": "llm", "request_id": "", "task_id": "", "traceparent": "",
    "source": "", "time_us": 1, "opened": True, "route": "default", "model": "", "prompt": "",
    "prompt_label": "production", "variables_json": "", "tools_json": "", "schema_json": "",
    "messages_json": '[{"role":"user","content":"x"}]', "schema_name": "", "params_json": "",
    "deadline_ms": 0, "after_content": "", "side_effects": False, "open_id": "", "on_invalid": "",
    "no_reset": False,
}  # fmt: skip
DEEP = "[" * 260 + "]" * 260


def said(content: Any, **more: Any) -> dict[str, str]:
    message = {"role": "user", "content": content, **more}
    return {"messages_json": orjson.dumps([message]).decode()}


WRONG = {
    "stop": ({"params_json": '{"stop": 5}'}, "params.stop"),
    "stop-list": ({"params_json": '{"stop": [5]}'}, "params.stop"),
    "stop-object": ({"params_json": '{"stop": {"a": 1}}'}, "params.stop"),
    "stop-long": ({"params_json": f'{{"stop": "{"x" * 2_000}"}}'}, "params.stop"),
    "text": (said([{"type": "text", "text": 5}]), "messages[0].content[0].text"),
    "media-text": (said([{"type": "media", "text": 5}]), "messages[0].content[0].text"),
    "media-data": (said([{"type": "media", "data": {}}]), "messages[0].content[0].data"),
    "part": (said([["text"]]), "messages[0].content[0]"),
    "part-type": (said([{"type": "x" * 9_000}]), "messages[0].content[0]"),
    "tool-calls": (said(None, tool_calls={"a": 1}), "messages[0].tool_calls"),
    "role": ({"messages_json": f'[{{"role":"{"x" * 9_000}","content":""}}]'}, "messages[0].role"),
    "role-list": ({"messages_json": '[{"role":["user"],"content":""}]'}, "messages[0].role"),
    "tokens": ({"params_json": '{"max_output_tokens": 18446744073709551615}'}, "params.max_output_tokens"),
    "tokens-none": ({"params_json": '{"max_output_tokens": 0}'}, "params.max_output_tokens"),
    "seed": ({"params_json": '{"seed": 18446744073709551615}'}, "params.seed"),
    "temperature": ({"params_json": '{"temperature": 1e300}'}, "params.temperature"),
    "choice": ({"params_json": '{"tool_choice": {"name": "f"}}'}, "params.tool_choice"),
    "choice-none": ({"params_json": '{"tool_choice": null}'}, "params.tool_choice"),
    "unknown": ({"params_json": f'{{"{"x" * 9_000}": 1}}'}, f"params.{'x' * 40}"),
    "tools-deep": ({"tools_json": f'[{{"name":"f","parameters":{{"a":{DEEP}}}}}]'}, "tools"),
    "schema-deep": ({"schema_json": f'{{"const": {DEEP}}}'}, "schema"),
    "messages-deep": (said([{"type": "text"}], more=orjson.loads("[" * 200 + "]" * 200)), "messages"),
    "tool-name": ({"tools_json": f'[{{"name":"{"f" * 200}"}}]'}, "tools[0].name"),
    "tool-doc": ({"tools_json": '[{"name":"f","description":{"a":1}}]'}, "tools[0].description"),
    "schema-name": ({"schema_json": "{}", "schema_name": "n" * 950_000}, "schema_name"),
    "route": ({"route": "r" * 950_000}, "route"),
    "model": ({"model": "m\n"}, "model"),
    "label": ({"prompt": "p", "prompt_label": "é" * 100}, "prompt_label"),
    "after": ({"after_content": "a" * 9_000}, "after_content"),
    "variables": ({"variables_json": f'{{"{"x" * 9_000}": 1}}'}, f"variables.{'x' * 40}"),
}


@pytest.mark.parametrize(("fields", "where"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named_and_said_in_a_few_words(fields, where):
    with pytest.raises(CallRefused) as refused:
        request_of(RECORD | fields)
    assert refused.value.where == where
    assert len(str(refused.value)) < 300


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.sampled_from(["", "text", "media", "user", "x", "é" * 200]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "text", "role", "content", "tool_calls", "name", "arguments", "stop"]),
        inner, max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system"]), "content": ANYTHING},
    optional={"tool_calls": ANYTHING, "tool_call_id": ANYTHING},
)
PARAMS = st.dictionaries(
    st.sampled_from(
        ["stop", "seed", "temperature", "top_p", "max_output_tokens", "reasoning", "tool_choice"]
    ),
    ANYTHING,
    max_size=3,
)
TOOL = st.fixed_dictionaries({"name": ANYTHING}, optional={"description": ANYTHING, "parameters": ANYTHING})


@given(
    messages=st.lists(MESSAGE | ANYTHING, max_size=2),
    params=PARAMS,
    tools=st.lists(TOOL, max_size=2),
    shape=st.sampled_from(sorted(PROVIDERS)),
)
def test_whatever_is_asked_is_a_call_or_is_refused(messages, params, tools, shape):
    fields = {"messages_json": messages, "params_json": params, "tools_json": tools}
    target = Target("p", shape, "http://127.0.0.1:1/v1", models=("m",))
    desk = RoutingDesk(Book({"p": target}))
    with suppress(LlmError):
        request = request_of(RECORD | {name: orjson.dumps(value).decode() for name, value in fields.items()})
        plan = desk.plan(request)
        row = Attempt(
            tenant="acme",
            stream_id="s",
            kind="llm",
            attempt=1,
            epoch=0,
            provider="p",
            model="m",
            started_us=1,
        )
        desk.reserve(plan, row)
        assert row.reserved_tokens < 2**63
        assert kept_input(plan.call, "full")
        assert kept_input(plan.call, "redacted")
        call = Call("m", plan.call.messages, plan.call.params, plan.call.tools)
        assert PROVIDERS[shape].request(call, target).body


ELSEWHERE = {
    "request-id": {"request_id": "x" * 129},
    "request-id-bytes": {"request_id": "é" * 100},
    "request-id-line": {"request_id": "a\nb"},
    "task-id": {"task_id": "x" * 129},
    "traceparent": {"traceparent": "nonsense"},
    "time": {"time_us": -1},
    "time-late": {"time_us": 2**62},
    "kind": {"kind": "LLM"},
    "stream": {"stream_id": "a/b"},
}


@pytest.mark.parametrize("fields", ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_a_request_of_which_no_event_could_be_written_is_a_dead_letter(fields):
    with pytest.raises(InvalidEvent):
        envelope_of(RECORD | fields)


def test_what_may_just_be_is_taken():
    trace = "00-" + "0af7651916cd43dd8448eb211c80319c" + "-b7ad6b7169203331-01"
    fields = {"request_id": "x" * 128, "task_id": "é" * 64, "traceparent": trace, "schema_name": "n" * 128}
    request = request_of(RECORD | fields | {"params_json": '{"stop": "x", "seed": -1, "top_p": 1}'})
    assert (request.to.task_id, request.to.traceparent, request.params.stop) == ("é" * 64, trace, ("x",))
    assert len(request.schema_name) == NAME_BYTES_MAX


def test_what_is_said_to_a_person_is_bounded():
    assert len(str(LlmError("x" * 1_000_000))) == MESSAGE_MAX
    assert str(LlmError("no", remedy="yes")) == "no"


def test_the_same_question_sent_again_asks_the_same_and_another_does_not():
    again = RECORD | {"time_us": 2, "traceparent": "t", "request_id": "r", "source": "somebody"}
    assert asks_of(again) == asks_of(RECORD)
    for name, value in (("messages_json", "[]"), ("model", "m"), ("route", "r"), ("params_json", "{}")):
        assert asks_of(RECORD | {name: value}) != asks_of(RECORD)
