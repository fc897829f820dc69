"""Answers in others' shapes, over a transport in memory: what is said, how it ends, what is never shown."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core import EdgeCore
from edge.errors import RequestError
from edge.frame import declared, frame_of
from edge.history import SharedHistory
from edge.join import Joined
from edge.llm import answer as answers
from edge.llm.answer import Collected, Http, Streamed
from edge.llm.anthropic_messages import MessagesAnswer
from edge.llm.compat import _refused
from edge.llm.connection import AnswerConnection
from edge.llm.openai_chat import ChatCompletion
from edge.llm.routes import CHAT
from edge.llm.told import Telling
from edge.options import EdgeOptions
from edge.recorded import MemoryLog
from schemas.catalog import LocalSchemas
from schemas.envelope import Event
from schemas.payloads import PayloadCodec
from tests.support.fake_transport import LIMITS, FakeTransport
from tests.support.llm_twin import end, failed, finish, piece, reset, text, usage

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from edge.frame import Frame

PAYLOADS = PayloadCodec(LocalSchemas())
WHOLE = [
    ("open", {}), piece("Hm", channel="reasoning"), *text("He", "llo"),
    piece('{"a"', channel="tool", call_id="c-1", tool="t"),
    piece("{}", channel="tool", call_id="c-2", tool="u"),
    piece(":1}", channel="tool", call_id="c-1", tool="t"), finish("tool_calls"), usage(), end(),
]  # fmt: skip


def chat(**options: Any) -> ChatCompletion:
    return ChatCompletion("s", "m", **({"include_usage": True} | options))


AT_US = time.time_ns() // 1_000
"""All events are of now: the past of a stream is given for a kind's time alone."""


def frames(steps: Sequence[Any], first_seq: int = 0) -> list[Frame]:
    return [made(first_seq + number, *step) for number, step in enumerate(steps)]


def made(seq: int, type_name: str, fields: dict[str, Any], offset: int | None = None) -> Frame:
    if type_name == "gap":
        return declared("gap", {"seq": seq, **fields}, cursor="c", seq=seq, offset=seq)
    payload, schema_id = PAYLOADS.encode(type_name, fields)
    event = Event(
        f"e-{seq}", "default", "s", seq, "llm", type_name, AT_US, "", "", "", "", "", 0, 0, payload, schema_id
    )
    at = seq if offset is None else offset
    return frame_of(event, topic_version=1, partition=0, offset=at, read_ms=0)


def streamed(shape: Any = None, *, chunked: bool = False) -> Streamed:
    return Streamed(shape or chat(), Telling(PAYLOADS), Http((), chunked=chunked))


def collected(shape: Any = None) -> Collected:
    return Collected(shape or chat(), Telling(PAYLOADS), Http((), chunked=True))


def body(data: bytes) -> Any:
    return orjson.loads(data.partition(b"\r\n\r\n")[2])


def status(data: bytes) -> int:
    return int(data.split(b" ")[1])


def dechunked(data: bytes) -> bytes:
    """The body of a chunked response, which must have its last chunk, and nothing after it."""
    rest, whole = data.partition(b"\r\n\r\n")[2], b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        whole, ended, rest = whole + rest[:length], rest[length : length + 2], rest[length + 2 :]
        assert ended == b"\r\n"
        if length == 0:
            assert rest == b""
            return whole


@pytest.mark.parametrize("shape", [chat, lambda: MessagesAnswer("s", "m")], ids=["openai", "anthropic"])
@given(cuts=st.sets(st.integers(1, len(WHOLE) - 1)))
def test_however_the_events_come_together_the_same_is_said(shape: Callable[[], Any], cuts: set[int]):
    at_once = streamed(shape(), chunked=True).encode(frames(WHOLE))
    parts, answer = frames(WHOLE), streamed(shape(), chunked=True)
    places = [0, *sorted(cuts), len(parts)]
    said = b"".join(answer.encode(parts[a:b]) for a, b in itertools.pairwise(places))
    strip = re.compile(rb'"created":\d+')
    assert strip.sub(b"", dechunked(said)) == strip.sub(b"", dechunked(at_once))


@pytest.mark.parametrize("word", ["other", "word of a later version"])
@pytest.mark.parametrize("shape", [chat, lambda: MessagesAnswer("s", "m")], ids=["openai", "anthropic"])
def test_what_the_model_did_not_finish_is_an_error_and_never_a_stop(shape: Callable[[], Any], word: str):
    events = frames([*text("half"), finish(word, raw="abort"), usage(), end()])
    said = streamed(shape()).encode(events)
    assert b'"code":"truncated"' in said
    assert not any(whole in said for whole in (b'"stop"', b"end_turn", b"[DONE]", b"message_stop"))
    assert status(collected(shape()).encode(events)) == 502


def test_an_answer_that_pauses_is_no_stop_either():
    events = frames([*text("half"), finish("pause"), usage(), end()])
    assert body(collected().encode(events))["choices"][0]["finish_reason"] == "length"
    assert body(collected(MessagesAnswer("s", "m")).encode(events))["stop_reason"] == "pause_turn"


def test_calls_that_come_beside_each_other_keep_their_pieces_apart():
    said = streamed(MessagesAnswer("s", "m")).encode(frames(WHOLE))
    found: dict[int, str] = {}
    for line in said.split(b"\n"):
        event = orjson.loads(line[6:]) if line.startswith(b"data: ") else {}
        if event.get("delta", {}).get("type") == "input_json_delta":
            found[event["index"]] = found.get(event["index"], "") + event["delta"]["partial_json"]
    assert list(found.values()) == ['{"a":1}', "{}"]
    message = body(collected(MessagesAnswer("s", "m")).encode(frames(WHOLE)))
    assert [block.get("input") for block in message["content"]] == [None, None, {"a": 1}, {}]
    whole = body(collected().encode(frames(WHOLE)))["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["arguments"] for call in whole] == ['{"a":1}', "{}"]


def test_an_answer_that_calls_a_tool_ends_for_that_whatever_the_provider_calls_it():
    called = [piece("{}", channel="tool", call_id="c-1", tool="t"), finish("stop"), usage(), end()]
    assert body(collected().encode(frames(called)))["choices"][0]["finish_reason"] == "tool_calls"
    anthropic = collected(MessagesAnswer("s", "m"))
    assert body(anthropic.encode(frames(called)))["stop_reason"] == "tool_use"


def test_what_says_nothing_to_such_a_client_writes_nothing_at_all():
    answer = streamed(chunked=True)
    quiet = [("open", {}), ("progress", {"done": 1}), ("custom", {"name": "x"}), *text(""), usage(), reset()]
    assert answer.encode(frames(quiet)) == b""


@pytest.mark.parametrize(
    "broken",
    [
        ("gap", {"from_seq": 2, "to_seq": 3, "count": 2, "reason": "lost"}),
        ("reset", {"from_seq": 1, "reason": "crash"}),
    ],
    ids=["gap", "reset"],
)
def test_a_hole_or_another_attempt_ends_the_answer_and_nothing_follows(broken):
    answer = streamed()
    said = answer.encode(frames([*text("half"), broken, *text("other"), end()]))
    assert answer.over
    assert b"half" in said
    assert b"other" not in said
    assert b"[DONE]" not in said
    assert said.count(b'"error"') == 1
    assert answer.encode(frames(text("more"), 9)) == b""


def test_an_event_that_cannot_be_read_is_a_failure_and_no_hole():
    frame = made(0, "token", {"text": "x"})
    assert frame.event is not None
    frame.event = frame.event._replace(payload=b"\xff")
    said = streamed().encode([frame])
    assert (status(said), body(said)["error"]["code"]) == (502, "unreadable")


def test_a_finish_of_an_attempt_that_nobody_saw_does_not_count_for_the_one_that_failed():
    first = ("state", {"name": "finish", "value_json": '{"finish":"refusal","attempt":1}'})
    second = ("state", {"name": "error", "value_json": '{"error_class":"server","attempt":2}'})
    said = streamed().encode(frames([first, second, end("upstream_error", "broke")]))
    assert (status(said), body(said)["error"]["message"]) == (502, "broke")
    own = ("state", {"name": "error", "value_json": '{"error_class":"content_refused","attempt":1}'})
    said = streamed().encode(frames([first, own, end("upstream_error", "refused")]))
    assert b'"finish_reason":"content_filter"' in said


def test_a_field_that_was_refused_is_named_as_each_shape_names_it():
    value = '{"error_class":"bad_request","attempt":1,"field":"params.seed"}'
    told = [("state", {"name": "error", "value_json": value}), end("upstream_error", "params.seed: has none")]
    said = body(streamed().encode(frames(told)))["error"]
    assert (said["param"], said["code"], said["message"]) == ("seed", "bad_request", "params.seed: has none")
    assert body(collected().encode(frames(told)))["error"]["param"] == "seed"
    theirs = body(collected(MessagesAnswer("s", "m")).encode(frames(told)))["error"]
    assert theirs["message"] == "params.seed: has none", "it is in the message, as there is no place for it"
    own = ("state", {"name": "error", "value_json": '{"error_class":"bad_request","field":7}'})
    said = streamed().encode(frames([own, end("upstream_error", "x")]))
    assert body(said)["error"]["param"] is None


@pytest.mark.parametrize("note", ["", "[", "3", "null", '{"finish": {}}', '{"finish": "line"}'])
def test_a_users_own_state_of_the_same_name_does_no_harm(note):
    said = streamed().encode(frames([("state", {"name": "finish", "value_json": note}), *text("x"), end()]))
    assert b'"finish_reason":"stop"' in said


def test_tokens_that_no_provider_told_are_absent_and_not_0():
    unknown = usage(input_tokens=0, output_tokens=0, provenance="unknown")
    said = streamed().encode(frames([*text("x"), unknown, end()]))
    assert b'"choices":[]' not in said, "a client reads what such a chunk says of tokens without a look"
    assert "usage" not in body(collected().encode(frames([*text("x"), unknown, end()])))


def test_tokens_of_a_cache_and_of_reasoning_are_told_as_each_shape_has_them():
    first = usage(input_tokens=100, output_tokens=9, cached_input_tokens=60, cache_write_tokens=10)
    second = usage(input_tokens=20, output_tokens=5, reasoning_tokens=4)
    steps = [*text("x"), first, second, end()]
    assert body(collected().encode(frames(steps)))["usage"] == {
        "prompt_tokens": 120, "completion_tokens": 14, "total_tokens": 134,
        "prompt_tokens_details": {"cached_tokens": 60}, "completion_tokens_details": {"reasoning_tokens": 4},
    }  # fmt: skip
    assert body(collected(MessagesAnswer("s", "m")).encode(frames(steps)))["usage"] == {
        "input_tokens": 50, "output_tokens": 14, "cache_read_input_tokens": 60,
        "cache_creation_input_tokens": 10, "output_tokens_details": {"thinking_tokens": 4},
    }  # fmt: skip
    plain = body(collected(MessagesAnswer("s", "m")).encode(frames([*text("x"), usage(), end()])))
    assert plain["usage"] == {"input_tokens": 7, "output_tokens": 5}


@pytest.mark.parametrize(
    ("note", "told"),
    [
        ({"finish": "stop", "raw": "stop_sequence", "stop_sequence": "END"}, ("stop_sequence", "END")),
        ({"finish": "stop", "raw": "stop", "stop_sequence": "END"}, ("stop_sequence", "END")),
        ({"finish": "stop", "raw": "stop_sequence"}, ("stop_sequence", None)),
        ({"finish": "stop", "raw": "end_turn"}, ("end_turn", None)),
        ({"finish": "stop", "raw": "stop", "stop_sequence": 3}, ("end_turn", None)),
        ({"finish": "length", "raw": "length", "stop_sequence": "END"}, ("max_tokens", None)),
    ],
    ids=["anthropic", "vllm", "which", "none", "nonsense", "length"],
)
def test_an_answer_that_stopped_at_a_text_of_the_question_says_so(note, told):
    steps = frames(
        [*text("x"), ("state", {"name": "finish", "value_json": orjson.dumps(note).decode()}), end()]
    )
    message = body(collected(MessagesAnswer("s", "m")).encode(steps))
    assert (message["stop_reason"], message["stop_sequence"]) == told
    assert b'"stop_reason":"%b"' % told[0].encode() in streamed(MessagesAnswer("s", "m")).encode(steps)
    expected = "length" if told[0] == "max_tokens" else "stop"
    assert body(collected().encode(steps))["choices"][0]["finish_reason"] == expected


def test_an_end_that_is_told_by_the_index_alone_ends_the_answer():
    told = {"seq": 9, "reason": "timed_out", "from_index": True}
    said = streamed().encode([declared("end", told, cursor="c", seq=9, offset=9)])
    assert status(said) == 504


def test_an_answer_that_is_collected_has_a_bound(monkeypatch):
    monkeypatch.setattr(answers, "WHOLE_CHARACTERS_MAX", 10)
    said = collected().encode(frames([*text("12345", "67890", "1"), end()]))
    assert (status(said), body(said)["error"]["code"]) == (502, "too_large")


# ---------------------------------------------------------------- over a connection


class Desk:
    """A core over a log in memory, and clients of stream ``s``."""

    def __init__(self, **options: int) -> None:
        self.core = EdgeCore(EdgeOptions(**options), PAYLOADS, topic_version=1)
        self.log = MemoryLog()
        self.core.feed_from(self.log, SharedHistory(self.log.read, 1 << 20))
        self.core.start()
        self.left = 0
        self.seq = 0

    def connect(self, answer: Any = None, **limits: int) -> FakeTransport:
        joined = self.core.joiner.join("default", "s", None, "test")
        assert isinstance(joined, Joined)
        self.answer = answer or streamed(chunked=True)
        self.connection = AnswerConnection(
            self.core, joined, self.answer, replace(LIMITS, **limits), left=self._left
        )
        return FakeTransport().serve(self.connection)

    def emit(self, *steps: Any) -> None:
        for name, fields in steps:
            seq, self.seq = self.seq, self.seq + 1
            frame = self.log.append(
                b"default/s", lambda at, seq=seq, name=name, fields=fields: made(seq, name, fields, at)
            )
            self.core.hub.publish([(b"default/s", frame)])

    def _left(self) -> None:
        self.left += 1


def play(scene: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(scene, 60))


async def until(done: Any) -> None:
    while not done():  # noqa: ASYNC110  # nobody tells what a connection writes
        await asyncio.sleep(0.005)


def test_the_head_waits_for_the_first_content_and_the_end_closes():
    async def scene() -> None:
        desk = Desk()
        out = desk.connect()
        desk.emit(("open", {}), finish("stop"))
        await asyncio.sleep(0.05)
        assert out.written == []
        desk.emit(*text("x"))
        await until(lambda: out.written)
        assert out.data.startswith(b"HTTP/1.1 200 OK\r\n")
        desk.emit(end())
        await until(out.is_closing)
        assert dechunked(out.data).endswith(b"data: [DONE]\n\n")
        await asyncio.sleep(0)
        assert not desk.core.clients
        assert desk.left == 0
        channel = desk.core.hub.get(b"default/s")
        assert channel is not None
        assert not channel.groups, "who asks for one stream again and again leaves nothing behind"

    play(scene())


def test_a_sign_of_life_is_the_head_and_a_comment_and_a_failure_after_it_is_in_the_stream():
    async def scene() -> None:
        desk = Desk()
        out = desk.connect(heartbeat_ms=100)
        await until(lambda: b": \n\n" in out.data)
        assert out.data.startswith(b"HTTP/1.1 200 OK\r\n")
        desk.emit(("open", {}), failed("not_found"), end("upstream_error", "no model"))
        await until(out.is_closing)
        assert b'"code":"model_not_found"' in dechunked(out.data)

    play(scene())


def test_a_whole_answer_shows_no_sign_of_life_and_fails_with_a_status():
    async def scene() -> None:
        desk = Desk()
        out = desk.connect(collected(), heartbeat_ms=100)
        await asyncio.sleep(0.3)
        desk.emit(*text("x"))
        await asyncio.sleep(0.05)
        assert out.written == []
        desk.emit(end("timed_out", "too long"))
        await until(out.is_closing)
        assert status(out.data) == 504
        assert b"x-should-retry: false" in out.data

    play(scene())


@pytest.mark.parametrize(
    ("reason", "code"), [("drain", 503), ("revoked", 401), ("expired", 401), ("life", 503), ("slow", 503)]
)
@pytest.mark.parametrize("begun", [False, True])
def test_who_is_sent_away_is_told_why_and_where_the_answer_goes_on(reason, code, begun):
    async def scene() -> None:
        desk = Desk()
        out = desk.connect()
        if begun:
            desk.emit(("open", {}), *text("x"))
            await until(lambda: out.written)
        desk.connection.send_away(reason)
        await until(out.is_closing)
        assert b"default/s" in out.data
        if begun:
            assert b'"code":"%b"' % reason.encode() in dechunked(out.data)
        else:
            assert (status(out.data), body(out.data)["error"]["code"]) == (code, reason)
        await asyncio.sleep(0)
        assert desk.left == 0, "it is the edge that left"

    play(scene())


def test_a_client_that_leaves_before_the_end_is_told_of_once():
    async def scene() -> None:
        desk = Desk()
        out = desk.connect()
        desk.emit(("open", {}), *text("x"))
        await until(lambda: out.written)
        out.abort()
        await asyncio.sleep(0.01)
        assert desk.left == 1
        gone = desk.connect()
        gone.close()
        await asyncio.sleep(0.01)
        assert desk.left == 2
        assert desk.core.hub.followers == 0

    play(scene())


def test_a_client_that_left_before_it_was_connected_leaves_nothing_behind():
    async def scene() -> None:
        desk = Desk()
        joined = desk.core.joiner.join("default", "s", None, "test")
        assert isinstance(joined, Joined)
        AnswerConnection(desk.core, joined, streamed(), LIMITS, left=desk._left).never_was()
        assert desk.left == 1
        assert desk.core.hub.followers == 0
        assert len(desk.core.hub) == 0

    play(scene())


def test_a_client_that_takes_nothing_for_a_while_is_given_all_of_it_in_order():
    async def scene() -> None:
        desk = Desk()
        out = desk.connect()
        desk.emit(("open", {}), *text("0 "))
        await until(lambda: out.written)
        out.full = True
        desk.emit(*text(*(f"{n} " for n in range(1, 200))), end())
        await asyncio.sleep(0.1)
        assert not out.is_closing()
        out.drain()
        await until(out.is_closing)
        said = re.findall(rb'"content":"(\d+ )"', dechunked(out.data))
        assert said == [b"%d " % n for n in range(200)]

    play(scene())


@pytest.mark.parametrize("stalls", [False, True])
def test_an_answer_out_of_the_past_is_begun_once_and_each_piece_of_it_is_said_once(stalls):
    async def scene() -> None:
        desk = Desk(ring_events_max=4, write_bytes_max=4_096)
        call = piece("{}", channel="tool", call_id="c-1", tool="t")
        desk.emit(("open", {}), *text(*(f"{n} " for n in range(200))), call, end())
        out = desk.connect()
        out.full = stalls
        while not out.is_closing():
            await asyncio.sleep(0.005)
            if stalls:
                for delivery in desk.connection.deliveries:
                    delivery.give_back()
                out.drain(full=True)
        assert out.data.count(b"HTTP/1.1 200 OK\r\n") == 1
        whole = dechunked(out.data)
        assert re.findall(rb'"content":"(\d+ )"', whole) == [b"%d " % n for n in range(200)]
        assert whole.count(b'"name":"t"') == 1
        assert len(out.written) > 2

    play(scene())


@pytest.mark.parametrize(
    ("note", "code", "repeated"),
    [
        ({"error_class": "rate_limited", "retry_after_ms": 1_500}, b"rate_limited", (b"2", b"true")),
        ({"error_class": "rate_limited"}, b"rate_limited", (b"", b"false")),
        ({"error_class": "spend_limited"}, b"insufficient_quota", (b"", b"false")),
        ({"error_class": "rate_limited", "retry_after_ms": "soon"}, b"rate_limited", (b"", b"false")),
    ],
    ids=["calls", "providers", "spent", "wrong"],
)
def test_what_was_refused_for_calls_in_flight_may_be_asked_again(note, code, repeated):
    told = ("state", {"name": "error", "value_json": orjson.dumps(note).decode()})
    said = streamed().encode(frames([("open", {}), told, end("upstream_error", "full")]))
    head = dict(line.split(b": ", 1) for line in said.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:])
    assert status(said) == 429
    assert b'"code":"%b"' % code in said
    assert (head.get(b"retry-after", b""), head[b"x-should-retry"]) == repeated


@pytest.mark.parametrize(
    ("refused", "code", "keyed", "repeated"),
    [
        (503, None, False, "false"),
        (503, None, True, "true"),
        (503, "overloaded", False, "true"),
        (429, None, False, "true"),
        (409, "stream_exists", True, "false"),
        (422, None, True, "false"),
    ],
    ids=["unknown", "keyed", "overloaded", "limit", "exists", "wrong"],
)
def test_others_clients_repeat_only_what_is_not_paid_for_twice(refused, code, keyed, repeated):
    error = RequestError(refused, "No", "no", extra={"code": code} if code else {})
    assert _refused(CHAT, error, keyed=keyed).headers["x-should-retry"] == repeated
