"""One call over a real socket: what is taken of it after its end, and what is never told of it."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from urllib.parse import quote

import pytest
import structlog

from connectors.kafka.errors import ProducerFailed
from connectors.llm import extent
from connectors.llm.attempt import Attempt
from connectors.llm.calls import Call, Target
from connectors.llm.client import provider_client
from connectors.llm.plan import Choice, Timers
from connectors.llm.providers import PROVIDERS

KEY = "sk-secret-0123456789"
CALL = Call(model="m", messages=[{"role": "user", "content": "hi"}])


class Sink:
    """Keeps what it is given."""

    def __init__(self):
        self.contents = []
        self.heads = []
        self.bodies = []

    def connected(self, status):
        """See attempt.Sink."""

    def content(self, delta):
        """See attempt.Sink."""
        self.contents.append(delta)

    def named(self, named):
        """See attempt.Sink."""

    def failed(self):
        """See attempt.Sink."""

    def body(self, status, headers, text):
        """See Sink."""
        self.bodies.append((status, headers, text))

    def raw(self, event, data):
        """See attempt.Sink."""

    def comment(self, text):
        """See attempt.Sink."""


def outcome_of(shape, answer, sink=None, *, headers=None, key=KEY, calls=1, stays=False, timers=None):
    """Make one call of a server that answers with these bytes, and closes."""
    sink = sink or Sink()
    headers = {"x-org": "org-9876543210"} if headers is None else headers

    async def serve(reader, writer):
        sink.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        if stays:
            await writer.wait_closed()
        writer.close()

    async def call():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        target = Target("here", shape, f"http://127.0.0.1:{port}/v1", key, headers)
        async with server, provider_client() as client:
            for _ in range(calls):
                choice = Choice(target, "m", timers or Timers())
                run = Attempt(client, PROVIDERS[shape], choice, CALL, sink)
                outcome = await run.run(30)
            return outcome, sink

    return asyncio.run(call())


def body(text, status="200 OK"):
    """An answer that ends with its connection."""
    return f"HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\n\r\n{text}".encode()


class BrokenSink(Sink):
    """Cannot take what it is given."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def content(self, delta):
        """See attempt.Sink."""
        raise self.error


SAID = body('data: {"choices":[{"index":0,"delta":{"content":"words of a user"}}]}\n\n')


def test_whatever_an_answer_breaks_is_an_outcome_and_logged_without_its_contents():
    with structlog.testing.capture_logs() as logs:
        outcome, _ = outcome_of("openai-chat", SAID, BrokenSink(TypeError("words of a user")))
    assert (outcome.error_class, outcome.error_raw) == ("malformed", "it could not be read: TypeError")
    (logged,) = logs
    assert (logged["error"], logged["at"].partition(":")[0]) == ("TypeError", "content")
    assert "words" not in repr(logs)


def test_what_is_our_own_failure_is_no_outcome_of_the_providers():
    with pytest.raises(ProducerFailed):
        outcome_of("openai-chat", SAID, BrokenSink(ProducerFailed("no room")))


def test_a_key_that_a_provider_quotes_is_in_no_record():
    said = f'{{"error":{{"message":"Incorrect API key provided: {KEY} of org-9876543210"}}}}'
    outcome, _ = outcome_of("openai-chat", body(said, "401 Unauthorized"))
    assert outcome.error_class == "unauthorized"
    assert "Incorrect API key provided: *** of ***" in outcome.said
    assert KEY not in repr(outcome)


QUOTED = {
    "refusal": body('{"error":{"message":"words of a user","code":"odd","param":7}}', "400 Bad Request"),
    "page": body("words of a user", "502 Bad Gateway"),
    "in-band": body('data: {"error":{"message":"words of a user","code":"odd","param":7}}\n\n'),
    "no-event": body("data: words of a user\n\n"),
    "status": b"HTTP words of a user\r\n\r\n",
    "chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nwords of a user\r\n",
}


@pytest.mark.parametrize("answer", QUOTED.values(), ids=QUOTED.keys())
def test_what_a_failure_quotes_is_told_by_structure_codes_and_sizes_alone(answer):
    outcome, _ = outcome_of("openai-chat", answer)
    assert outcome.error_class
    assert outcome.error_raw
    assert "words" not in outcome.error_raw


def test_of_a_refusal_its_codes_and_numbers_are_told():
    outcome, _ = outcome_of("openai-chat", QUOTED["refusal"])
    assert outcome.error_raw == '{"error":{"message":"···············","code":"odd","param":7}}'
    assert "words of a user" in outcome.said
    outcome, _ = outcome_of("openai-chat", body("", "503 Oh"))
    assert (outcome.error_raw, outcome.said) == ("status 503 without a body", "")


LEFT = {
    "blank": {"key": f"{KEY} "},
    "line": {"headers": {"x-api-key": f"{KEY}\n"}},
    "scheme": {"headers": {"authorization": f"Bearer {KEY}\n"}},
    "ascii": {"headers": {"x-api-key": f"{KEY}\u2019"}},
}


@pytest.mark.parametrize("sent", LEFT.values(), ids=LEFT.keys())
def test_a_key_that_no_header_can_have_is_in_no_record_either(sent):
    outcome, _ = outcome_of("openai-chat", body(""), **sent)
    assert outcome.error_class is not None
    assert outcome.error_raw
    assert KEY not in repr(outcome)


@pytest.mark.parametrize(
    "said", [KEY, quote(f"{KEY} "), "x" * 1_965 + KEY, json.dumps(f"a{KEY}")], ids=range(4)
)
def test_a_key_is_masked_however_it_is_written_and_where_it_is_cut(said):
    headers = {"authorization": f"Bearer {KEY}"}
    answer = body(json.dumps({"error": {"message": said}}), "401 Unauthorized")
    outcome, _ = outcome_of("openai-chat", answer, headers=headers, key="")
    assert KEY[:6] not in repr(outcome)
    assert "***" in outcome.said


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


@pytest.mark.parametrize(
    ("finish", "error"),
    [("abort", "truncated"), ("made_up", "truncated"), ("content_filter", "content_refused"), ("stop", None)],
)
def test_an_answer_is_whole_by_a_finish_that_is_known_alone(finish, error):
    said = f'data: {{"choices":[{{"index":0,"delta":{{"content":"A"}},"finish_reason":"{finish}"}}]}}\n\n'
    outcome, _ = outcome_of("openai-chat", body(f"{said}data: [DONE]\n\n"))
    assert (outcome.error_class, outcome.finish_raw) == (error, finish)
    assert (finish in outcome.error_raw) is (error == "truncated")


def test_no_cookie_of_one_call_is_sent_with_the_next():
    answer = body("").replace(b"\r\n\r\n", b"\r\nset-cookie: tenant=acme; Path=/\r\n\r\n")
    _, sink = outcome_of("openai-chat", answer, calls=2)
    assert len(sink.heads) == 2
    assert b"cookie" not in b"".join(sink.heads).lower()


def outcome_of_nobody(timers, scheme="http"):
    """Make one call of a server that takes connections, and says nothing; give what it was sent, too."""

    async def call():
        got = []

        async def serve(reader, writer):
            got.append(await reader.read(4))
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        target = Target("here", "openai-chat", f"{scheme}://127.0.0.1:{port}/v1", KEY)
        async with server, provider_client() as client:
            run = Attempt(client, PROVIDERS["openai-chat"], Choice(target, "m", timers), CALL, Sink())
            return await run.run(30), got

    return asyncio.run(call())


def test_a_connection_without_its_tls_in_time_was_sent_nothing():
    outcome, got = outcome_of_nobody(Timers(connect_ms=500), scheme="https")
    assert (outcome.error_class, outcome.sent) == ("timeout_connect", False)
    assert got != [b"POST"]


def test_a_status_that_does_not_come_is_no_first_content():
    outcome, got = outcome_of_nobody(Timers(connect_ms=100, first_content_ms=1_000))
    assert (outcome.error_class, outcome.sent, got) == ("timeout_first_content", True, [b"POST"])


def packed(text, layers=1):
    data = text.encode()
    for _ in range(layers):
        data = gzip.compress(data)
    codings = ", ".join(["gzip"] * layers)
    return f"content-type: text/event-stream\r\ncontent-encoding: {codings}\r\n\r\n".encode() + data


@pytest.mark.parametrize("layers", [1, 3])
def test_an_answer_that_is_compressed_is_refused_unread(layers):
    """A bomb in bombs: of three layers each KiB may unpack to a GiB."""
    bomb = packed(piece("a") + ": ping\n\n" * 100_000, layers)
    outcome, sink = outcome_of("openai-chat", b"HTTP/1.1 200 OK\r\n" + bomb)
    assert outcome.error_class == "malformed"
    assert f"compressed ({', '.join(['gzip'] * layers)})" in outcome.error_raw
    assert not sink.contents


def test_a_body_that_says_that_it_is_not_compressed_is_read():
    answer = body(piece("a")).replace(b"\r\n\r\n", b"\r\ncontent-encoding: identity\r\n\r\n", 1)
    outcome, sink = outcome_of("openai-chat", answer)
    assert [each.text for each in sink.contents] == ["a"]
    assert outcome.error_class == "truncated"


WAYS = {
    "cut": b'content-length: 999\r\n\r\n{"error',
    "packed": b"content-encoding: gzip\r\n\r\nno gzip",
    "endless": b"\r\n" + b"x" * 70_000,
    "silent": b"content-length: 999\r\n\r\n",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("status", "error"), [("401 Unauthorized", "unauthorized"), ("429 Too Many Requests", "rate_limited")]
)
def test_a_status_tells_what_it_is_whatever_becomes_of_its_body(way, status, error):
    answer = f"HTTP/1.1 {status}\r\nretry-after: 7\r\n".encode() + WAYS[way]
    outcome, _ = outcome_of(
        "openai-chat", answer, stays=way in ("endless", "silent"), timers=Timers(5_000, 1_000)
    )
    assert (outcome.error_class, outcome.http_status) == (error, int(status[:3]))
    assert outcome.retry_after_ms == 7_000
    assert outcome.error_raw


def piece(text, index=0):
    return f'data: {{"choices":[{{"index":{index},"delta":{{"content":"{text}"}}}}]}}\n\n'


def picture(size_bytes):
    url = "data:image/png;base64," + base64.b64encode(bytes(size_bytes)).decode()
    return f'data: {{"choices":[{{"delta":{{"images":[{{"image_url":{{"url":"{url}"}}}}]}}}}]}}\n\n'


EXTENTS = {
    "pieces": ("CONTENTS_MAX", 10, [piece("a", number % 2) for number in range(20)]),
    "text": ("TEXT_CHARACTERS_MAX", 100, [piece("a" * 30) for _ in range(9)]),
    "media": ("MEDIA_BYTES_MAX", 1_000, [picture(400) for _ in range(9)]),
    "body": ("BODY_BYTES_MAX", 3_000, [": ping\n\n"] * 1_000),
}


@pytest.mark.parametrize(("bound", "most", "frames"), EXTENTS.values(), ids=EXTENTS.keys())
def test_an_answer_that_does_not_end_is_ended(monkeypatch, bound, most, frames):
    monkeypatch.setattr(extent, bound, most)
    outcome, sink = outcome_of("openai-chat", body("".join(frames)))
    assert (outcome.error_class, outcome.finish) == ("oversized", "")
    assert outcome.error_raw.startswith(f"an answer of more than {most} ")
    assert len(sink.contents) < 11
    size = sum(len(getattr(each, "text", "")) + len(getattr(each, "data", b"")) for each in sink.contents)
    assert size <= most


def test_the_longest_answer_of_a_model_is_within_all_bounds():
    tokens, characters, event_bytes = 128_000, 4, 300
    assert tokens * characters * 4 < extent.TEXT_CHARACTERS_MAX
    assert tokens * 2 < extent.CONTENTS_MAX
    assert tokens * event_bytes * 4 < extent.BODY_BYTES_MAX
