"""The loopback provider: what it says in each shape, when, to whom, and what it tells of its calls."""

from __future__ import annotations

import asyncio
import random
import re
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import openai
import orjson
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm.loopback.answers import SHAPES
from connectors.llm.loopback.demo import NAME, TEXT, recording_of
from connectors.llm.loopback.errors import LoopbackRefused
from connectors.llm.loopback.library import OURS
from connectors.llm.loopback.play import paced, play_recording, recorded
from connectors.llm.loopback.script import ANSWERS, Script, words
from connectors.llm.loopback.server import Loopback, LoopbackOptions, LoopbackThread
from connectors.llm.loopback.wanted import FAULTS, Wanted, parse_wanted
from connectors.llm.recording import SUFFIX, Recorded, Recording, read_recording, write_recording
from tests.support.loopback_client import WORDS_SCHEMA, Got, ask, body_of, send, until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from connectors.llm.calls import Shape

ALL: list[Shape] = list(SHAPES)
each_shape = pytest.mark.parametrize("shape", ALL)
QUESTION: Any = [{"role": "user", "content": "what flows here"}]


def run(test: Callable[[Loopback], Coroutine[Any, Any, Any]], options: LoopbackOptions | None = None) -> Any:
    async def inner() -> Any:
        async with Loopback(options) as loopback:
            return await asyncio.wait_for(test(loopback), 60)

    return asyncio.run(inner())


# -- what clients of others make of it ----------------------------------------------------------------


@pytest.fixture(scope="module")
def loopback() -> Iterator[Loopback]:
    with LoopbackThread() as loopback:
        yield loopback


@pytest.fixture(scope="module")
def openai_client(loopback: Loopback) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=loopback.base_url("openai-chat"), api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def anthropic_client(loopback: Loopback) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=loopback.url, api_key="none", max_retries=0) as client:
        yield client


def test_the_openai_package_reads_text_reasoning_and_usage_of_chat_completions(openai_client):
    with openai_client.chat.completions.stream(
        model="echo?reasoning=4", messages=QUESTION, stream_options={"include_usage": True}
    ) as stream:
        answer = stream.get_final_completion()
    assert answer.choices[0].message.content == "what flows here"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3 + 4)
    assert answer.usage.completion_tokens_details.reasoning_tokens == 4


def test_chat_completions_give_usage_only_to_those_who_ask_for_it(openai_client):
    chunks = list(openai_client.chat.completions.create(model="echo", messages=QUESTION, stream=True))
    assert [chunk for chunk in chunks if chunk.usage] == []


def test_the_openai_package_reads_a_tool_call_of_chat_completions(openai_client):
    tool = {"type": "function", "function": {"name": "look", "parameters": WORDS_SCHEMA}}
    with openai_client.chat.completions.stream(model="tool", messages=QUESTION, tools=[tool]) as stream:
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0].function
    assert (call.name, orjson.loads(call.arguments).keys()) == ("look", {"place", "count"})


def test_the_openai_package_reads_text_reasoning_and_usage_of_responses(openai_client):
    with openai_client.responses.stream(model="echo?reasoning=4", input="what flows here") as stream:
        answer = stream.get_final_response()
    assert (answer.output_text, answer.status) == ("what flows here", "completed")
    assert answer.output[0].summary[0].text
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 3 + 4)


def test_the_openai_package_reads_a_tool_call_of_responses(openai_client):
    tool = {"type": "function", "name": "look", "parameters": WORDS_SCHEMA}
    with openai_client.responses.stream(model="tool", input="look", tools=[tool]) as stream:
        call = stream.get_final_response().output[0]
    assert (call.name, orjson.loads(call.arguments).keys()) == ("look", {"place", "count"})


def test_the_openai_package_reads_what_is_cut_off_at_the_longest_answer(openai_client):
    wanted: Any = {"model": "words?tokens=50", "input": "go on", "max_output_tokens": 5}
    *_, last = openai_client.responses.create(**wanted, stream=True)
    assert (last.type, last.response.incomplete_details.reason) == (
        "response.incomplete",
        "max_output_tokens",
    )


def test_the_anthropic_package_reads_text_thinking_and_usage(anthropic_client):
    with anthropic_client.messages.stream(
        model="echo?reasoning=4", max_tokens=100, messages=QUESTION
    ) as stream:
        answer = stream.get_final_message()
    thinking, text = answer.content
    assert (text.text, answer.stop_reason) == ("what flows here", "end_turn")
    assert (thinking.type, bool(thinking.thinking), bool(thinking.signature)) == ("thinking", True, True)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 3 + 4)


def test_the_anthropic_package_reads_a_tool_call(anthropic_client):
    tool = {"name": "look", "input_schema": WORDS_SCHEMA}
    with anthropic_client.messages.stream(
        model="tool", max_tokens=100, messages=QUESTION, tools=[tool]
    ) as stream:
        answer = stream.get_final_message()
    assert (answer.stop_reason, answer.content[0].name) == ("tool_use", "look")
    assert answer.content[0].input.keys() == {"place", "count"}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("rate_limited", "RateLimitError"),
        ("unauthorized", "AuthenticationError"),
        ("not_found", "NotFoundError"),
        ("server", "InternalServerError"),
    ],
)
def test_both_packages_name_the_errors_of_an_answer_that_is_none(
    openai_client, anthropic_client, fault: str, error: str
):
    model = f"words?fault={fault}"
    with pytest.raises(getattr(openai, error)):
        openai_client.chat.completions.create(model=model, messages=QUESTION, stream=True)
    with pytest.raises(getattr(anthropic, error)):
        anthropic_client.messages.create(model=model, max_tokens=9, messages=QUESTION, stream=True)


def test_the_openai_package_lists_its_models(openai_client):
    assert {"echo", "words", "tool", "json", NAME} <= {model.id for model in openai_client.models.list()}


@each_shape
def test_the_same_request_has_the_same_bytes(shape: Shape):
    async def test(loopback: Loopback) -> list[bytes]:
        return [(await ask(loopback.url, shape, "words?seed=5")).body for _ in range(2)]

    once, again = run(test), run(test)
    assert once[0] == once[1] == again[0]


# -- when ---------------------------------------------------------------------------------------------


@each_shape
def test_made_up_tokens_come_at_their_rate(shape: Shape):
    script = Script(model="words", key="0" * 32, text=[f" {number}" for number in range(50)])
    wanted = Wanted("words", rate=50, first_ms=300)
    due = [line.at_us for line in paced(script, wanted, SHAPES[shape]) if line.kind == "content"]
    assert due == [300_000 + 20_000 * number for number in range(50)]


recordings = st.lists(
    st.tuples(st.integers(0, 10**7), st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))),
    max_size=30,
).map(
    lambda rows: Recording(
        "openai-chat",
        [Recorded(at_us, data) for (at_us, _), (_, data) in zip(sorted(rows), rows, strict=True)],
    )
)


@given(recordings, st.sampled_from([0.1, 0.5, 1.0, 2.0, 7.0, 1000.0]))
def test_at_another_speed_order_and_data_stay_and_times_are_in_proportion(recording, speed):
    lines = recorded(recording, speed, SHAPES["openai-chat"])
    assert [line.data for line in lines] == [event.data for event in recording.events]
    for line, event in zip(lines, recording.events, strict=True):
        assert abs(line.at_us * speed - event.at_us) <= speed, "within a microsecond of what is played"


@given(recordings)
def test_at_speed_nought_all_is_due_at_once(recording):
    play = play_recording(recording, Wanted("x", speed=0), SHAPES["openai-chat"])
    assert set(play.at_us) <= {0}
    assert len(play.frames) == len(recording.events)


@given(recordings, st.sampled_from(["", "stall", "comments", "split", "unknown", "missing_usage"]))
def test_no_fault_makes_time_go_back(recording, fault):
    wanted = Wanted("x", fault=frozenset(filter(None, [fault])), stall_ms=5)
    play = play_recording(recording, wanted, SHAPES["openai-chat"])
    assert list(play.at_us) == sorted(play.at_us)
    assert len(play.at_us) == len(play.frames)


# -- recordings ---------------------------------------------------------------------------------------


@each_shape
def test_our_recordings_are_what_their_maker_makes(shape: Shape):
    kept = read_recording(OURS / f"{NAME}.{shape}{SUFFIX}")
    made = recording_of(SHAPES[shape])
    assert kept == Recording(made.shape, list(made.events), made.status, dict(made.headers), made.note)
    assert "made up" in kept.note


@each_shape
def test_a_recording_is_played_byte_for_byte(shape: Shape):
    answer = run(lambda loopback: ask(loopback.url, shape, f"{NAME}?speed=0"))
    recording = read_recording(OURS / f"{NAME}.{shape}{SUFFIX}")
    if SHAPES[shape].framing == "ndjson":
        data = answer.body.decode().split("\n")[:-1]
    else:
        lines = answer.body.decode().split("\n")
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data == [event.data for event in recording.events]
    for name, value in recording.headers.items():
        assert answer.headers[name] == value


def test_a_folder_of_recordings_is_found_and_those_of_another_shape_are_refused(tmp_path: Path):
    write_recording(tmp_path / f"mine{SUFFIX}", Recording("ollama", [Recorded(0, '{"done": true}')]))

    async def test(loopback: Loopback) -> list[Got]:
        return [await ask(loopback.url, shape, "mine") for shape in ("ollama", "gemini")]

    own, other = run(test, LoopbackOptions(recordings=tmp_path))
    assert (own.status, own.body) == (200, b'{"done": true}\n')
    assert (other.status, b"of the shape ollama, not gemini" in other.body) == (400, True)


def test_a_recorded_refusal_is_played_as_one(tmp_path: Path):
    refused = Recording("openai-chat", [Recorded(5, body='{"error": 1}')], 429, {"retry-after": "3"})
    write_recording(tmp_path / f"full{SUFFIX}", refused)
    answer = run(lambda it: ask(it.url, "openai-chat", "full"), LoopbackOptions(recordings=tmp_path))
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (429, b'{"error": 1}', "3")


def test_the_welcome_is_about_a_hundred_and_fifty_tokens_and_takes_seconds():
    recording = recording_of(SHAPES["openai-chat"])
    contents = [each for each in recording.events if b'"content":"' in each.data.encode()]
    assert 120 <= len(contents) <= 200
    assert 3 <= recording.events[-1].at_us / 1e6 <= 12
    said = "".join(orjson.loads(each.data)["choices"][0]["delta"].get("content") or "" for each in contents)
    assert said == TEXT


# -- what can be wanted -------------------------------------------------------------------------------


@each_shape
def test_a_tool_call_in_each_shape(shape: Shape):
    answer = run(lambda loopback: ask(loopback.url, shape, "tool", tool=True))
    assert answer.status == 200
    assert b'"look"' in answer.body


@each_shape
def test_a_tool_call_without_a_tool_is_refused(shape: Shape):
    answer = run(lambda loopback: ask(loopback.url, shape, "tool"))
    assert (answer.status, b"Give it a tool" in answer.body) == (400, True)


@each_shape
def test_a_model_that_is_not_there(shape: Shape):
    answer = run(lambda loopback: ask(loopback.url, shape, "gpt-x"))
    assert (answer.status, b"there is no model 'gpt-x'" in answer.body) == (404, True)


@each_shape
@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"model": 1, "messages": 3, "contents": 3}'])
def test_a_request_that_is_none_of_the_shape(shape: Shape, body: bytes):
    answer = run(lambda loopback: ask(loopback.url, shape, "echo", body=body))
    assert (answer.status, b"none of the shape" in answer.body) == (400, True)


@pytest.mark.parametrize(
    "query", ["tokens=-1", "tokens=x", "rate=nan", "after=1e9", "nonsense=1", "retry_after=a%0Ab"]
)
def test_what_cannot_be_wanted_is_refused_by_its_name(query: str):
    with pytest.raises(LoopbackRefused, match=query.partition("=")[0]):
        parse_wanted(f"words?{query}")


def test_a_models_name_can_stand_for_another_and_change_while_it_runs():
    async def test(loopback: Loopback) -> list[int]:
        statuses = [(await ask(loopback.url, "anthropic", "claude-x")).status]
        await send(loopback.url, "PUT", "/_models/claude-x", b"words?fault=overloaded")
        statuses.append((await ask(loopback.url, "anthropic", "claude-x")).status)
        wrong = await send(loopback.url, "PUT", "/_models/claude-x", b"words?fault=nonsense")
        return [*statuses, wrong.status, (await ask(loopback.url, "anthropic", "claude-x")).status]

    assert run(test, LoopbackOptions(models={"claude-x": "words"})) == [200, 529, 400, 529]


def test_answers_that_are_not_streamed_are_refused():
    body = orjson.dumps({"model": "echo", "messages": QUESTION})
    answer = run(lambda loopback: ask(loopback.url, "openai-chat", "", body=body))
    assert (answer.status, b"it only streams" in answer.body) == (400, True)


# -- what it tells ------------------------------------------------------------------------------------


def test_it_tells_its_calls_and_masks_keys():
    async def test(loopback: Loopback) -> None:
        headers = {"authorization": "Bearer sk-secret", "x-api-key": "sk-secret", "x-mine": "shown"}
        await ask(loopback.url, "openai-chat", "echo", headers=headers)
        await send(loopback.url, "POST", "/v1beta/models/echo:streamGenerateContent?alt=sse&key=sk-secret",
                   body_of("gemini", "echo"))  # fmt: skip
        told = await send(loopback.url, "GET", "/_calls")
        assert b"sk-secret" not in told.body
        first, second = orjson.loads(told.body)["calls"]
        assert (first["shape"], first["model"], first["outcome"]) == ("openai-chat", "echo", "ended")
        assert first["headers"]["x-mine"] == "shown"
        assert orjson.loads(first["body"])["model"] == "echo"
        assert first["began_us"] <= first["first_content_us"] <= first["done_us"]
        assert second["path"].endswith("alt=sse&key=***")
        later = await send(loopback.url, "GET", "/_calls?after=1")
        assert [call["number"] for call in orjson.loads(later.body)["calls"]] == [2]
        await send(loopback.url, "DELETE", "/_calls")
        told = await send(loopback.url, "GET", "/_calls")
        assert orjson.loads(told.body) == {"total": 2, "playing": 0, "calls": []}

    run(test)


@each_shape
def test_it_tells_who_left_before_the_end(shape: Shape):
    async def test(loopback: Loopback) -> None:
        model = "words?tokens=5000&rate=1000"
        await ask(loopback.url, shape, model, leave=lambda got: got.kinds(shape).count("content") >= 3)
        seen = loopback.seen[0]
        await until(lambda: seen.outcome == "client_closed")
        assert 0 < seen.sent < seen.events
        assert seen.done_us >= seen.first_content_us

    run(test)


def test_calls_under_way_are_told_when_it_stops():
    async def test(loopback: Loopback) -> Loopback:
        asking = asyncio.create_task(ask(loopback.url, "ollama", "words?fault=stall"))
        await until(lambda: bool(loopback.seen) and loopback.seen[0].sent == loopback.seen[0].events)
        assert not asking.done()
        return loopback

    assert run(test).seen[0].outcome == "stopped"


# -- its sockets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::"])
def test_it_binds_to_loopback_alone(host: str):
    with pytest.raises(LoopbackRefused, match="no loopback address"):
        Loopback(LoopbackOptions(host=host))


def test_a_page_whose_name_was_pointed_here_reads_nothing():
    async def test(loopback: Loopback) -> list[int]:
        hosts = ("evil.example", "127.0.0.1.evil.example", "localhost", "")
        return [(await send(loopback.url, "GET", "/_calls", headers={"host": host})).status for host in hosts]

    assert run(test) == [403, 403, 200, 403]


def test_a_client_that_reads_slowly_gets_all_of_it_and_is_held_in_no_memory():
    async def test(loopback: Loopback) -> None:
        model = "words?tokens=100000"
        port, body = int(loopback.url.rpartition(":")[2]), body_of("ollama", model)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4_096)
        head = b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        await until(lambda: bool(loopback.seen) and loopback.seen[0].sent > 0)
        seen = loopback.seen[0]
        assert seen.sent < seen.events / 2, "it waits for who does not read"
        size = 0
        while data := await reader.read(1 << 20):
            size += len(data)
            if data.endswith(b"0\r\n\r\n"):
                break
        assert (seen.outcome, seen.sent) == ("ended", seen.events)
        assert size > 5_000_000
        writer.close()

    run(test)


def test_many_at_once_have_each_their_own_whole_answer():
    async def test(loopback: Loopback) -> None:
        models = [f"words?tokens=30&rate=300&seed={number}" for number in range(100)]
        answers = await asyncio.gather(*(ask(loopback.url, "anthropic", model) for model in models))
        assert {answer.ended for answer in answers} == {"whole"}
        assert len({answer.body for answer in answers}) == len(models)
        for model, answer in list(zip(models, answers, strict=True))[::20]:
            assert (await ask(loopback.url, "anthropic", model)).body == answer.body

    run(test)


@pytest.mark.parametrize(
    ("fault", "ended"), [("cut", "reset"), ("closed", "closed"), ("ended", "whole"), ("drop", "reset")]
)
def test_the_loop_that_the_command_runs_on_breaks_off_alike(fault: str, ended: str):
    async def test() -> Got:
        async with Loopback() as loopback:
            return await asyncio.wait_for(ask(loopback.url, "ollama", f"words?fault={fault}&after=4"), 60)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answer = runner.run(test())
    assert (answer.ended, answer.kinds("ollama").count("content")) == (ended, 0 if fault == "drop" else 4)


def test_a_connection_is_used_again():
    with LoopbackThread() as loopback, httpx2.Client() as client:
        for _ in range(3):
            answer = client.post(f"{loopback.url}/api/chat", content=body_of("ollama", "echo"))
            assert (answer.status_code, answer.is_success) == (200, True)
        assert len(loopback.connections) == 1


@pytest.mark.parametrize(
    "request_bytes", [b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 20_000]
)
def test_what_is_no_request_ends_the_connection(request_bytes: bytes):
    async def test(loopback: Loopback) -> None:
        port = int(loopback.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes)
        try:
            answer = await reader.read()
        except ConnectionResetError:
            answer = b""
        assert not answer or answer.split()[1] in (b"400", b"413")
        writer.close()
        assert (await ask(loopback.url, "ollama", "echo")).status == 200, "and nobody else's"

    run(test)


def test_words_come_of_the_seed():
    assert words(9, random.Random(1)) == words(9, random.Random(1)) != words(9, random.Random(2))


def test_the_page_names_every_fault_and_all_that_can_be_wanted():
    page = (Path(__file__).parents[2] / "docs" / "llm.md").read_text()
    section = page.partition("### The loopback provider")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z_0-9]+)`", section))
    assert {*FAULTS, *ANSWERS, *(field.name for field in fields(Wanted))} - {"answer"} <= named


def test_a_stamped_token_says_when_it_was_written():
    began_us = time.time_ns() // 1_000
    got = run(lambda loopback: ask(loopback.url, "openai-chat", "words?tokens=5&rate=50&stamp=1"))
    ended_us = time.time_ns() // 1_000
    chunks = [value for _, value in got.events("openai-chat") if value != "[DONE]"]
    text = "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks if each["choices"])
    stamps = [int(stamp) for stamp in re.findall(r"@(\d{16})", text)]
    assert re.sub(r"@\d{16}", "", text) == "".join(words(5, random.Random(1)))
    assert [began_us, *stamps, ended_us] == sorted([began_us, *stamps, ended_us])
    assert len(stamps) == 5
    assert stamps[-1] - stamps[0] >= 75_000  # four gaps of 20 ms, less a tick
