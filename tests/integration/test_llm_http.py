"""From others' clients to a provider and back: edge, Kafka, ingest and the worker, all as they are run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anthropic
import httpx2
import openai
import pytest

from connectors.kafka.admin import ensure_topics
from connectors.kafka.options import KafkaOptions
from connectors.llm.loopback.server import LoopbackThread
from connectors.registry import Registry
from schemas.topics import TOPICS
from tests.support.access_world import until
from tests.support.edge_process import EdgeProcess
from tests.support.llm_world import LlmWorld
from tests.support.sse_client import read_stream
from tests.support.worker_process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connectors.llm.loopback.server import Loopback
    from ops.stack.addresses import Addresses
    from tests.support.llm_world import LlmWorkerProcess

pytestmark = pytest.mark.timeout(180)
ASKED: list[Any] = [{"role": "user", "content": "tell me of the river"}]
TOOL: dict[str, Any] = {"name": "look", "description": "looks", "parameters": {"type": "object"}}


@dataclass
class Whole:
    """All processes, and the provider that they ask."""

    edge: EdgeProcess
    llm: LlmWorld
    loopback: Loopback
    worker: LlmWorkerProcess


@pytest.fixture(scope="module")
def whole(
    stack: Addresses, registered_schemas: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Whole]:
    kafka = KafkaOptions(stack.kafka, topic_prefix=f"t{uuid4().hex[:10]}.", client_id="test-llm-http")
    ensure_topics(kafka, TOPICS)
    folder = tmp_path_factory.mktemp("whole")
    ingest = WorkerProcess(stack, kafka, folder / "ingest", roles="ingest")
    llm = LlmWorld(kafka, Registry(registered_schemas), folder)
    edge = EdgeProcess(kafka, registered_schemas, folder / "edge.log")
    try:
        with LoopbackThread() as loopback:
            shape = "openai-chat"
            provider = {"shape": shape, "base_url": loopback.base_url(shape)}
            worker = llm.worker({"here": provider}, session_timeout_ms=6_000)
            edge.start()
            ingest.wait_ready(4)
            yield Whole(edge, llm, loopback, worker)
    finally:
        llm.close()
        edge.stop()
        ingest.kill()


@pytest.fixture
def client(whole: Whole) -> Iterator[openai.OpenAI]:
    http = httpx2.Client(trust_env=False, verify=False, timeout=60)
    with openai.OpenAI(base_url=f"{whole.edge.url}/v1", api_key="none", http_client=http) as client:
        yield client


def test_what_openais_client_reads_is_what_the_provider_sent_and_what_our_stream_holds(whole, client):
    model = "words?tokens=30"
    direct = openai.OpenAI(
        base_url=whole.loopback.base_url("openai-chat"),
        api_key="none",
        http_client=httpx2.Client(trust_env=False, verify=False),
    )
    sent = direct.chat.completions.create(model=model, messages=ASKED, stream=True)
    expected = "".join(chunk.choices[0].delta.content or "" for chunk in sent if chunk.choices)
    chunks = list(
        client.chat.completions.create(
            model=model, messages=ASKED, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens >= 30
    seen = read_stream(f"{whole.edge.url}/v1/streams/{chunks[0].id}/events")
    assert "".join(event["text"] for event in seen.events if event["type"] == "token") == expected
    assert seen.events[-1]["reason"] == "completed"
    (row,) = whole.llm.attempts(chunks[0].id)
    assert (row.state, row.output_tokens) == ("completed", chunks[-1].usage.completion_tokens)


def test_a_tool_is_called_through_both_clients(whole, client):
    made = client.chat.completions.create(
        model="tool", messages=ASKED, tools=[{"type": "function", "function": TOOL}]
    )
    assert made.choices[0].finish_reason == "tool_calls"
    (call,) = made.choices[0].message.tool_calls
    http = httpx2.Client(trust_env=False, verify=False, timeout=60)
    with anthropic.Anthropic(base_url=whole.edge.url, api_key="none", http_client=http) as other:
        tool = {"name": "look", "input_schema": {"type": "object"}}
        with other.messages.stream(model="tool", max_tokens=99, messages=ASKED, tools=[tool]) as stream:
            final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    (block,) = [block for block in final.content if block.type == "tool_use"]
    assert (block.name, block.input) == (call.function.name, openai_json(call.function.arguments))


def openai_json(text: str) -> Any:
    return httpx2.Response(200, text=text).json()


@pytest.mark.parametrize(
    ("model", "extra", "error", "code"),
    [
        ("words", {"route": "nowhere"}, openai.NotFoundError, "model_not_found"),
        ("words?fault=not_found", {}, openai.NotFoundError, "model_not_found"),
        ("words?fault=context_overflow", {}, openai.BadRequestError, "context_length_exceeded"),
        ("words?fault=unauthorized", {}, openai.InternalServerError, "upstream_error"),
        ("words", {"prompt": "none"}, openai.BadRequestError, "bad_request"),
        ("words?fault=no_answer", {"deadline_ms": 1_500}, openai.InternalServerError, "timed_out"),
    ],
    ids=["route", "model", "context", "key", "prompt", "time"],
)
def test_what_fails_before_any_content_has_the_status_that_their_clients_expect(
    client, model, extra, error, code
):
    with pytest.raises(error) as raised:
        client.chat.completions.create(
            model=model, messages=ASKED, stream=True, extra_body={"sluicegate": extra}
        )
    assert raised.value.code == code


def test_an_answer_that_is_cut_is_an_error_and_never_begun_anew(whole, client):
    model = "words?tokens=20&fault=cut&after=6&tag=cut"
    got: list[str] = []
    chunks = client.chat.completions.create(model=model, messages=ASKED, stream=True)
    with pytest.raises(openai.APIError) as raised:
        got.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "".join(got)
    assert raised.value.code == "upstream_error"
    assert [seen.model for seen in whole.loopback.seen].count(model) == 1


def test_a_client_that_leaves_can_have_the_provider_stopped(whole, client):
    model = "words?tokens=2000&rate=40&tag=leaves"
    chunks = client.chat.completions.create(
        model=model, messages=ASKED, stream=True, extra_body={"sluicegate": {"cancel_on_disconnect": True}}
    )
    stream_id = next(iter(chunks)).id
    chunks.close()
    until(
        lambda: any(seen.model == model and seen.outcome == "client_closed" for seen in whole.loopback.seen)
    )
    seen = read_stream(f"{whole.edge.url}/v1/streams/{stream_id}/events")
    assert seen.events[-1]["reason"] == "cancelled"


def test_a_worker_that_is_killed_leaves_an_error_to_their_client_and_a_clear_end_to_ours(whole, client):
    model = "words?tokens=400&rate=40&tag=killed"
    chunks = client.chat.completions.create(model=model, messages=ASKED, stream=True)
    first = next(iter(chunks))
    whole.worker.kill()
    whole.worker.start()
    got: list[str] = []
    with pytest.raises(openai.APIError) as raised:
        got.extend(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert raised.value.code == "upstream_error"
    seen = read_stream(f"{whole.edge.url}/v1/streams/{first.id}/events", timeout_s=60)
    types = [event["type"] for event in seen.events]
    assert "reset" not in types, "what there was stays, as nothing follows it"
    assert "".join(event["text"] for event in seen.events if event["type"] == "token") == "".join(got)
    assert types.count("end") == 1
    assert types[-1] == "end"
    assert seen.events[-1]["reason"] == "upstream_error", "what was shown was not to be begun anew"
