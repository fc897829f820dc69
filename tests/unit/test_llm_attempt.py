"""One call over a real socket: what is taken of it after its end, and what is never told of it."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from connectors.llm.attempt import Attempt
from connectors.llm.calls import Call, Target
from connectors.llm.plan import Choice
from connectors.llm.providers import PROVIDERS

KEY = "sk-secret-0123456789"
CALL = Call(model="m", messages=[{"role": "user", "content": "hi"}])


class Sink:
    """Keeps what it is given."""

    def __init__(self):
        self.contents = []

    def connected(self, status):
        """See attempt.Sink."""

    def content(self, delta):
        """See attempt.Sink."""
        self.contents.append(delta)

    def named(self, named):
        """See attempt.Sink."""

    def raw(self, event, data):
        """See attempt.Sink."""


def outcome_of(shape, answer):
    """Make one call of a server that answers with these bytes, and closes."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def call():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        target = Target("here", shape, f"http://127.0.0.1:{port}/v1", KEY, {"x-org": "org-9876543210"})
        sink = Sink()
        async with server, httpx2.AsyncClient(timeout=None, trust_env=False) as client:
            run = Attempt(client, PROVIDERS[shape], Choice(target, "m"), CALL, sink)
            return await run.run(30), sink

    return asyncio.run(call())


def body(text, status="200 OK"):
    """An answer that ends with its connection."""
    return f"HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\n\r\n{text}".encode()


def test_a_key_that_a_provider_quotes_is_in_no_record():
    said = f'{{"error":{{"message":"Incorrect API key provided: {KEY} of org-9876543210"}}}}'
    outcome, _ = outcome_of("openai-chat", body(said, "401 Unauthorized"))
    assert outcome.error_class == "unauthorized"
    assert "Incorrect API key provided: *** of ***" in outcome.error_raw
    assert KEY not in repr(outcome)


def test_usage_that_comes_with_an_error_counts_and_content_after_it_does_not():
    frames = [
        '{"type":"response.output_text.delta","output_index":0,"content_index":0,"item_id":"i","delta":"A"}',
        '{"type":"error","code":"server_error","message":"no"}',
        '{"type":"response.output_text.delta","output_index":0,"content_index":0,"item_id":"i","delta":"B"}',
        (
            '{"type":"response.failed","response":{"id":"r","status":"failed","error":{"code":"server_error",'
            '"message":"no"},"usage":{"input_tokens":5,"output_tokens":7}}}'
        ),
    ]
    outcome, sink = outcome_of("openai-responses", body("".join(f"data: {each}\n\n" for each in frames)))
    assert outcome.error_class == "server"
    assert "".join(piece.text for piece in sink.contents) == "A"
    assert (outcome.usage.input_tokens, outcome.usage.output_tokens) == (5, 7)


@pytest.mark.parametrize(("finish", "error"), [("made_up", None), ("content_filter", "content_refused")])
def test_a_finish_that_nobody_knows_is_whole_and_a_refusal_is_none(finish, error):
    said = f'data: {{"choices":[{{"index":0,"delta":{{"content":"A"}},"finish_reason":"{finish}"}}]}}\n\n'
    outcome, _ = outcome_of("openai-chat", body(f"{said}data: [DONE]\n\n"))
    assert (outcome.error_class, outcome.finish_raw) == (error, finish)
