"""Asking a model over HTTP: stream and request stand in Kafka together, and every refusal says where."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import pytest

from schemas.topics import LLM_REQUESTS, partition_of
from tests.support.access_world import bearer, until
from tests.support.edge_llm_world import world
from tests.support.llm_twin import end, piece, reset, text, usage
from tests.support.sse_client import read_stream
from tests.support.tokens import ALL

if TYPE_CHECKING:
    from tests.support.edge_llm_world import LlmWorld

__all__ = ["world"]
pytestmark = pytest.mark.timeout(120)


def test_the_answer_of_a_question_is_read_at_the_address_that_was_given(world: LlmWorld):
    world.twin.answers["whole"] = [*text("Hel", "lo"), usage(), end()]
    answer = world.ask(world.asking(model="whole", title="a greeting", task_id="t-1"), query="?tenant=acme")
    assert answer.status_code == 202
    told = answer.json()
    assert (told["tenant"], told["kind"], told["verdict"]) == ("acme", "llm", "accepted")
    assert answer.headers["location"] == told["events"]
    seen = read_stream(world.edge.url + told["events"])
    assert [event["type"] for event in seen.events] == ["open", "token", "token", "usage", "end"]
    assert "".join(event["text"] for event in seen.events if event["type"] == "token") == "Hello"
    assert seen.events[0]["title"] == "a greeting"
    assert seen.events[0]["labels"] == {"route": "default", "model": "whole"}
    # The index follows by its own topic.
    until(
        lambda: (
            httpx2.get(world.edge.url + told["state"], trust_env=False, verify=False).json()["reason"]
            == "completed"
        )
    )


def test_the_worker_is_given_all_that_was_asked_on_the_partition_of_the_stream(world: LlmWorld):
    world.twin.route("cheap", {"candidates": [{"target": "a", "model": "small"}]})
    until(lambda: world.ask(world.asking(route="cheap")).status_code == 202)
    stream_id = f"all-{uuid4()}"
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    asked = {
        "stream_id": stream_id,
        "route": "cheap",
        "model": "small",
        "prompt": "greet",
        "prompt_label": "canary",
        "variables": {"name": "Ann"},
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "media", "mime": "image/png", "url": "https://x.test/a.png"},
            ]},
            {"role": "assistant", "tool_calls": [{"id": "c-1", "name": "look", "arguments": "{}"}]},
            {"role": "tool", "tool_call_id": "c-1", "content": "a cat"},
        ],
        "tools": [{"name": "look", "parameters": {"type": "object"}}],
        "schema": {"type": "object", "properties": {"a": {"type": "number"}}},
        "schema_name": "thing",
        "params": {
            "max_output_tokens": 10, "temperature": 0.5, "stop": ["\n"], "seed": 3, "reasoning": "low",
            "tool_choice": "auto",
        },
        "deadline_ms": 5_000,
        "after_content": "surface",
        "side_effects": True,
        "no_reset": True,
        "request_id": "r-1",
        "task_id": "t-1",
    }  # fmt: skip
    assert world.ask(asked, traceparent=trace).status_code == 202
    request = world.twin.wait_for(stream_id)
    key = f"default/{stream_id}".encode()
    assert request["partition"] == partition_of(key, LLM_REQUESTS.partitions)
    assert request["opened"]
    assert request["traceparent"] == trace
    assert {name: request[name] for name in asked} == asked


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        ({}, 422, "request"),
        ({"messages": [{"role": "user", "content": "x"}], "modle": "m"}, 422, "modle"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 422, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 422, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": [{"type": "?"}]}]}, 422, "messages.0.content.0"),
        ({"prompt": "p", "variables": {"a": 1}}, 422, "variables.a"),
        ({"prompt": "p", "params": {"temperature": "hot"}}, 422, "params.temperature"),
        ({"prompt": "p", "params": {"heat": 1}}, 422, "params.heat"),
        ({"prompt": "p", "route": "a\nb"}, 422, "route"),
        ({"prompt": "p", "stream_id": "a/b"}, 422, "stream_id"),
        ({"prompt": "p", "kind": "none"}, 422, None),
        ({"prompt": "p", "after_content": "again"}, 422, "after_content"),
        ({"prompt": "p", "deadline_ms": -1}, 422, "deadline_ms"),
        ({"prompt": "p", "tools": [{"name": "t"}] * 129}, 422, "tools"),
        ({"prompt": "p", "messages": [{"role": "user", "content": "x" * 1_100_000}]}, 413, None),
        (b'{"prompt": "p", "schema": ' + b'{"a":' * 128 + b"1" + b"}" * 129, 422, "request"),
    ],
    ids=lambda value: None,
)
def test_what_is_wrong_is_named_and_nobody_is_asked(world: LlmWorld, body, status, field):
    before = len(world.twin.requests)
    answer = world.ask(body)
    assert answer.status_code == status, answer.text
    assert answer.json().get("field") == field
    assert "x" * 100 not in answer.text
    assert len(world.twin.requests) == before


def test_a_name_that_no_worker_would_know_is_told_with_those_that_there_are(world: LlmWorld):
    world.twin.route("narrow", {"candidates": [{"target": "a", "model": "tiny"}]})
    until(lambda: world.ask(world.asking(route="narrow", model="tiny")).status_code == 202)
    before = len(world.twin.requests)
    for asking, field in (({"route": "narow"}, "route"), ({"route": "narrow", "model": "tinny"}, "model")):
        refused = world.ask(world.asking(**asking))
        told = refused.json()
        assert (refused.status_code, told["code"], told["field"]) == (404, "model_not_found", field)
        assert "narrow" in told["remedy"]
    assert len(world.twin.requests) == before


def test_a_stream_that_is_there_is_not_asked_for_again_and_the_answer_says_where_it_is(world: LlmWorld):
    world.twin.answers["once"] = [*text("one"), end()]
    stream_id = f"once-{uuid4()}"
    asking = world.asking(stream_id=stream_id, model="once")
    assert world.ask(asking).status_code == 202
    again = world.ask(asking)
    assert (again.status_code, again.json()["code"]) == (409, "stream_exists")
    seen = read_stream(world.edge.url + again.json()["events"])
    assert [event["type"] for event in seen.events] == ["open", "token", "end"]
    assert [each["stream_id"] for each in world.twin.requests].count(stream_id) == 1


def test_of_many_who_ask_for_one_stream_at_one_moment_one_is_told_that_it_is_theirs(world: LlmWorld):
    stream_id = f"race-{uuid4()}"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: world.ask(world.asking(stream_id=stream_id)), range(4)))
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409]
    seen = read_stream(world.edge.url + answers[0].json()["events"], until=lambda seen: bool(seen.events))
    opens = [each["open_id"] for each in world.twin.requests if each["stream_id"] == stream_id]
    assert len(set(opens)) == len(opens), "each question is bound to an open of its own"
    assert seen.events[0]["event_id"] in opens


def test_a_stream_can_be_cancelled_as_soon_as_it_was_asked_for(world: LlmWorld):
    told = world.ask(world.asking()).json()
    cancelled = httpx2.post(
        world.edge.url + told["cancel"], json={"reason": "enough"}, trust_env=False, verify=False
    )
    assert cancelled.status_code == 202


def test_while_ingest_is_away_the_answer_says_that_the_stream_is_pending(world: LlmWorld):
    token = world.issuer.token(**ALL)
    with world.twin.ears:
        told = world.ask(world.asking(), guarded=True, **bearer(token)).json()
    assert told["verdict"] == "pending"
    seen = read_stream(world.edge.url + told["events"], until=lambda seen: bool(seen.events))
    assert seen.events[0]["type"] == "open"


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({}, 202),
        ({"scope": "subscribe"}, 403),
        ({"tenants": ["other"]}, 403),
        ({"streams": ["mine-*"]}, 403),
        ({"kinds": ["log"]}, 403),
    ],
    ids=["may", "scope", "tenant", "stream", "kind"],
)
def test_who_may_ask_is_who_may_publish_to_the_stream(world: LlmWorld, claims, status):
    told = {"tenants": ["acme"], "streams": ["llm-*"], "kinds": ["llm"], "scope": "publish", **claims}
    token = world.issuer.token(**told)
    answer = world.ask(world.asking(), query="?tenant=acme", guarded=True, **bearer(token))
    assert answer.status_code == status, answer.text
    assert world.ask(world.asking(), guarded=True).status_code == 401
    if status == 202:
        stream_id = urlsplit(answer.json()["events"]).path.split("/")[3]
        assert world.twin.wait_for(stream_id)["source"] == "ann"


def test_the_program_of_the_page_prints_an_answer_without_what_was_superseded(world: LlmWorld):
    world.twin.answers["printed"] = [
        piece("Hm. ", channel="reasoning"), *text("wrong"), reset(), *text("Hel", "lo"), usage(), end(),
    ]  # fmt: skip
    told = world.ask(world.asking(model="printed")).json()
    program = Path(__file__).parents[2] / "docs" / "examples" / "read_tokens.py"
    words = [sys.executable, str(program), world.edge.url + told["events"]]
    printed = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    assert printed == "wrong\n[begun anew: another attempt]\nHello\n[completed] \n5 characters\n"


def test_the_description_of_the_api_shows_what_a_question_has(world: LlmWorld):
    api = httpx2.get(f"{world.edge.url}/openapi.json", trust_env=False, verify=False).json()
    for path in ("/v1/llm/streams", "/v1/chat/completions", "/v1/messages"):
        schema = api["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["additionalProperties"] is False
        assert "role" in schema["properties"]["messages"]["items"]["properties"]
        assert "$ref" not in str(schema)
