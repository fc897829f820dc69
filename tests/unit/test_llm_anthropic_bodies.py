"""The bodies with which the source distribution of ``anthropic`` tests its client, read by us and by it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anthropic
import httpx2
import pytest

from connectors.llm.deltas import Alive, Finished, Over
from connectors.llm.framing import Frame
from tests.conftest import unavailable
from tests.unit.support_llm import Told, deltas_of, told
from tests.unit.support_llm_operation import World

if TYPE_CHECKING:
    from connectors.llm.framing import Framed
    from ops.settings import Settings

VERSION = "2.14.0"
SHA256 = "afb02f4df8efba429ff769bbfd71340d8b244b41ba42c073a45cc307702549fe"
DOWNLOAD_TIMEOUT_S = 150.0

# Text that begins so, tokens in and out, finish. Cached tokens: those of message_delta_fields alone.
GOLDEN: dict[str, tuple[str, int, int, str]] = {
    "stream-a-refusal.sse": ("Hi", 28, 106, "refusal"),
    "stream-a-toolrefusal.sse": ("Here's a summary of this year's", 28, 106, "refusal"),
    "stream-b-fallback.sse": (" there! Happy to explain.", 31, 547, "stop"),
    "basic_response.txt": ("Hello there!", 11, 6, "stop"),
    "compaction_response.txt": ("Hello there!", 30, 8, "stop"),
    "context_management_response.txt": ("Hello there!", 25, 8, "stop"),
    "fallback_credit_response.txt": ("Hello there!", 25, 8, "stop"),
    "fallback_response.txt": ("Hello there!", 25, 8, "stop"),
    "incomplete_partial_json_response.txt": ("I'll create a comprehensive tax guide", 450, 124, "length"),
    "input_transformations_delta_response.txt": ("Hello there!", 25, 8, "stop"),
    "input_transformations_empty_delta_response.txt": ("Hello there!", 25, 8, "stop"),
    "input_transformations_start_only_response.txt": ("Hello there!", 25, 8, "stop"),
    "message_delta_fields_response.txt": ("Hello there!", 40 + 12 + 7, 8, "stop"),
    "message_delta_omitted_usage_response.txt": ("Hello there!", 25 + 10 + 5, 8, "stop"),
    "refusal_response.txt": ("", 20, 0, "refusal"),
    "server_tool_use_response.txt": ("Claude Opus 4.7 is now generally available", 9281, 97, "stop"),
    "tool_use_invalid_json_response.txt": ("I'll check the current weather in Paris", 377, 65, "tool_calls"),
    "tool_use_response.txt": ("I'll check the current weather in Paris", 377, 65, "tool_calls"),
    "unknown_events_response.txt": ("Hello there!", 11, 6, "stop"),
}


@pytest.fixture(scope="module")
def bodies(stack_settings: Settings) -> dict[str, bytes]:
    """The bodies by the names of their files; downloaded once into the cache."""
    folder = stack_settings.cache_dir.absolute() / "tests"
    archive = folder / f"anthropic-{VERSION}.tar.gz"
    if not archive.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            downloaded = _download(fresh)
            downloaded.replace(archive)  # whole or not at all: tests run side by side
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert found == SHA256, f"{archive} is not what it was: remove it"
    out: dict[str, bytes] = {}
    with tarfile.open(archive) as members:
        for member in members:
            name = member.name.rpartition("/")[2]
            if name in GOLDEN and "/fixtures/" in member.name:
                content = members.extractfile(member)
                assert content is not None
                out[name] = content.read()
    return out


def _download(folder: str) -> Path:
    wanted = [
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        "anthropic",
        "-d",
        folder,
        f"anthropic=={VERSION}",
    ]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *wanted]
    try:
        subprocess.run(command, timeout=DOWNLOAD_TIMEOUT_S, capture_output=True, text=True, check=True)
        return next(Path(folder).glob("*.tar.gz"))
    except (OSError, subprocess.SubprocessError, StopIteration) as error:
        unavailable(
            "the source distribution of anthropic", str(getattr(error, "stderr", None) or error)[-500:]
        )


def test_all_nineteen_are_there(bodies):
    assert sorted(bodies) == sorted(GOLDEN)
    assert len(bodies) == 19


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_a_body_comes_to(bodies, name):
    answer = told(deltas_of("anthropic", [bodies[name]]))
    begins, sent, got, finish = GOLDEN[name]
    assert answer.text.startswith(begins)
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (sent, got)
    assert (answer.finish, answer.end) == (finish, "over")


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_nothing_of_a_body_is_lost(bodies, name):
    """What is kept of each event and comment, written down again, is the body but for its last line ends."""
    kept: list[str] = []

    def keep(framed: Framed) -> None:
        if isinstance(framed, Frame):
            kept.append(f"event: {framed.event}\ndata: {framed.data}\n\n")
        else:
            assert isinstance(framed, Alive)
            kept.append(f":{framed.raw}\n")

    deltas_of("anthropic", [bodies[name]], keep)
    assert "".join(kept).rstrip("\n") == bodies[name].decode().rstrip("\n")


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_what_a_worker_keeps_of_a_body_is_all_of_it(bodies, name):
    answer = httpx2.MockTransport(lambda _request: httpx2.Response(200, content=bodies[name]))
    world = World(shape="anthropic", keep={"raw": "full"}, attempts_max=1)
    world.tools["client"] = httpx2.AsyncClient(transport=answer, verify=False)
    kept = [
        f":{each.comment}\n" if each.comment is not None else f"event: {each.event}\ndata: {each.data}\n\n"
        for each in world.run().kept().events
    ]
    # Behind the end mark nobody reads on, for a ping that not even an empty line ends.
    came = bodies[name].decode().rstrip("\n").removesuffix('event: ping\ndata: {"type": "ping"}')
    assert "".join(kept).rstrip("\n") == came.rstrip("\n")


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_a_body_cut_at_any_event_is_not_whole(bodies, name):
    events = bodies[name].split(b"\n\n")
    last = max(index for index, event in enumerate(events) if b"message_stop" in event)
    for end in range(last + 1):
        deltas = deltas_of("anthropic", [b"\n\n".join(events[:end]) + b"\n\n"])
        assert not any(isinstance(each, Over) for each in deltas)
    assert any(isinstance(each, Finished) for each in deltas)


def theirs(body: bytes) -> tuple[Told, Any]:
    """Read a body by the client of the package."""

    def answer(_request: httpx2.Request) -> httpx2.Response:
        # its decoder wants the empty line that some of the bodies end without
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body + b"\n\n")

    out, message, tools = Told(), None, dict[int, str]()
    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as transport,
        anthropic.Anthropic(api_key="k", base_url="http://127.0.0.1", http_client=transport) as client,
        client.messages.stream(
            model="m", max_tokens=1, messages=[{"role": "user", "content": "Hi"}]
        ) as stream,
    ):
        for event in stream._raw_stream:
            if event.type == "content_block_start" and event.content_block.type == "tool_use":
                tools[event.index] = event.content_block.id
                out.tools[event.content_block.id] = [event.content_block.name, ""]
            elif event.type == "content_block_delta":
                if event.delta.type == "text_delta":
                    out.text += event.delta.text
                elif event.delta.type == "thinking_delta":
                    out.reasoning += event.delta.thinking
                elif event.delta.type == "input_json_delta" and event.index in tools:
                    out.tools[tools[event.index]][1] += event.delta.partial_json
    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as transport,
        anthropic.Anthropic(api_key="k", base_url="http://127.0.0.1", http_client=transport) as client,
        client.messages.stream(
            model="m", max_tokens=1, messages=[{"role": "user", "content": "Hi"}]
        ) as stream,
    ):
        message = (
            stream.get_final_message() if b"celsius}" not in body else None
        )  # it refuses what is no JSON
    return out, message


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_the_client_of_the_package_reads_the_same(bodies, name):
    ours, (out, message) = told(deltas_of("anthropic", [bodies[name]])), theirs(bodies[name])
    assert (ours.text, ours.reasoning, ours.tools) == (out.text, out.reasoning, out.tools)
    if message is not None:
        usage = message.usage
        assert ours.usage is not None
        cached = (usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0)
        assert ours.usage.input_tokens == usage.input_tokens + sum(cached)
        assert (ours.usage.cached_input_tokens or 0, ours.usage.cache_write_tokens or 0) == cached
        assert ours.usage.output_tokens == usage.output_tokens
        assert ours.finish_raw == message.stop_reason
        assert ours.named.request_id == message.id
