"""The loopback provider's faults: each is on the wire what its name says, in each shape."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from connectors.llm.loopback.answers import SHAPES
from connectors.llm.loopback.faults import NOT_IN
from connectors.llm.loopback.server import Loopback
from connectors.llm.loopback.wanted import BLEMISHES, BREAKS, FAULTS, REFUSALS
from tests.support.loopback_client import Got, ask, until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from connectors.llm.calls import Shape

ALL: list[Shape] = list(SHAPES)
each_shape = pytest.mark.parametrize("shape", ALL)
WORDS = 12


def run(test: Callable[[Loopback], Coroutine[Any, Any, Any]]) -> Any:
    async def inner() -> Any:
        async with Loopback() as loopback:
            return await asyncio.wait_for(test(loopback), 60)

    return asyncio.run(inner())


def got(shape: Shape, wanted: str, **more: Any) -> Got:
    """Ask the same of the same model; only a header wants the fault, so that bodies can be compared."""
    headers = {"x-loopback": wanted}
    return run(lambda loopback: ask(loopback.url, shape, f"words?tokens={WORDS}", headers=headers, **more))


def contents(shape: Shape, answer: Got) -> int:
    return answer.kinds(shape).count("content")


def text_in(shape: Shape, answer: Got) -> str:
    """The text of an answer, read by the names of each shape's documentation."""
    said = ""
    for _, value in answer.events(shape):
        if not isinstance(value, dict):
            continue
        if shape == "openai-chat":
            said += (value["choices"][0]["delta"].get("content") or "") if value.get("choices") else ""
        elif shape == "openai-responses":
            said += value["delta"] if value.get("type") == "response.output_text.delta" else ""
        elif shape == "anthropic":
            said += value["delta"].get("text", "") if value.get("type") == "content_block_delta" else ""
        elif shape == "gemini":
            said += value["candidates"][0]["content"]["parts"][0]["text"] if "candidates" in value else ""
        else:
            said += value["message"]["content"] if "message" in value else ""
    return said


def test_every_fault_has_a_test_here():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {*BREAKS, *BLEMISHES} <= tested, "name the test after its fault"


# -- answers of another status ------------------------------------------------------------------------


@each_shape
@pytest.mark.parametrize("fault", sorted(REFUSALS))
def test_an_answer_that_is_none(shape: Shape, fault: str):
    statuses = {
        "rate_limited": 429, "spend_limited": 429, "server": 500, "bad_gateway": 502, "unauthorized": 401,
        "not_found": 404, "bad_request": 400, "context_overflow": 400, "moderated": 400,
        "overloaded": 529 if shape == "anthropic" else 503,
    }  # fmt: skip
    answer = got(shape, f"fault={fault}")
    assert (answer.status, answer.ended) == (statuses[fault], "whole")
    assert "retry-after" not in answer.headers
    if fault == "bad_gateway":
        assert answer.headers["content-type"] == "text/html"
    else:
        assert answer.headers["content-type"] == "application/json"
        assert b'"error"' in answer.body


@each_shape
def test_a_limit_that_says_when(shape: Shape):
    answer = got(shape, "fault=rate_limited&retry_after=7")
    assert (answer.status, answer.headers["retry-after"]) == (429, "7")


@each_shape
def test_a_limit_of_spending_differs_from_one_of_requests(shape: Shape):
    spent, many = got(shape, "fault=spend_limited"), got(shape, "fault=rate_limited")
    assert spent.status == many.status
    assert spent.body != many.body


# -- answers that break off ---------------------------------------------------------------------------


@each_shape
@pytest.mark.parametrize("after", [0, 1, 5, 1_000])
def test_cut(shape: Shape, after: int):
    answer = got(shape, f"fault=cut&after={after}")
    assert (answer.status, answer.ended) == (200, "reset")
    assert contents(shape, answer) == min(after, WORDS)
    assert not {"finish", "usage", "done"} & set(answer.kinds(shape))


@each_shape
def test_closed(shape: Shape):
    answer = got(shape, "fault=closed&after=4")
    assert (answer.ended, contents(shape, answer)) == ("closed", 4)


@each_shape
def test_ended(shape: Shape):
    answer = got(shape, "fault=ended&after=4")
    assert (answer.ended, contents(shape, answer)) == ("whole", 4)
    assert not {"finish", "usage", "done"} & set(answer.kinds(shape))


@each_shape
def test_cut_utf8(shape: Shape):
    answer = got(shape, "fault=cut_utf8&after=4")
    assert (answer.ended, contents(shape, answer)) == ("whole", 4)
    with pytest.raises(UnicodeDecodeError, match="unexpected end of data"):
        answer.body.decode()


@each_shape
@pytest.mark.parametrize("after", [0, 4])
def test_stall(shape: Shape, after: int):
    async def test(loopback: Loopback) -> None:
        model = f"words?tokens={WORDS}&fault=stall&after={after}"

        def sent(answer: Got) -> bool:
            return bool(loopback.seen) and len(answer.events(shape)) >= loopback.seen[0].events

        answer = await ask(loopback.url, shape, model, leave=sent)
        seen = loopback.seen[0]
        await until(lambda: seen.outcome == "client_closed")
        assert (answer.ended, contents(shape, answer)) == ("left", after)
        assert seen.sent == seen.events, "all that it had to say was said, and no end came"

    run(test)


@each_shape
def test_a_stall_that_passes(shape: Shape):
    answer = got(shape, "fault=stall&after=4&stall_ms=20")
    assert (answer.ended, answer.body) == ("whole", got(shape, "").body)


@each_shape
def test_pings(shape: Shape):
    wanted = 8

    def enough(answer: Got) -> bool:
        return len(answer.events(shape)) > 20 + wanted

    answer = got(shape, "fault=pings&after=2&ping_ms=1", leave=enough)
    assert (answer.ended, contents(shape, answer)) == ("left", 2)
    assert answer.kinds(shape)[-wanted:] == ["other"] * wanted


@each_shape
def test_error_frame(shape: Shape):
    answer = got(shape, "fault=error_frame&after=2")
    assert (answer.status, answer.ended, contents(shape, answer)) == (200, "whole", 2)
    said = [value for _, value in answer.events(shape) if isinstance(value, dict)]
    assert any("error" in value or value.get("type") == "error" for value in said)
    assert not {"finish", "done"} & set(answer.kinds(shape)) or shape == "openai-responses"
    if shape == "openai-responses":
        assert said[-1]["type"] == "response.failed"


@each_shape
def test_abort(shape: Shape):
    answer = got(shape, "fault=abort&after=2")
    if shape in NOT_IN["abort"]:
        assert answer.status == 400
        return
    words = {
        "openai-chat": b'"finish_reason":"abort"',
        "openai-responses": b'"incomplete_details":{"reason":"abort"}',
        "gemini": b'"finishReason":"OTHER"',
        "ollama": b'"done_reason":"unload"',
    }
    assert (answer.status, answer.ended, contents(shape, answer)) == (200, "whole", 2)
    assert words[shape] in answer.body
    assert answer.kinds(shape)[-1] == got(shape, "").kinds(shape)[-1], "its end mark comes"


# -- answers with a blemish ---------------------------------------------------------------------------


@each_shape
def test_malformed(shape: Shape):
    answer = got(shape, "fault=malformed&after=2")
    broken = [value for _, value in answer.events(shape) if isinstance(value, str) and value != "[DONE]"]
    assert len(broken) == 1
    assert broken[0].startswith("{"), "it looks like one of the shape until it breaks"
    assert contents(shape, answer) == WORDS


@each_shape
def test_unknown(shape: Shape):
    answer = got(shape, "fault=unknown&after=2")
    values = [value for _, value in answer.events(shape)]
    assert sum(isinstance(value, dict) and value.get("type") == "loopback.unknown" for value in values) == 1
    assert contents(shape, answer) == WORDS


@each_shape
def test_bad_utf8(shape: Shape):
    answer = got(shape, "fault=bad_utf8&after=2")
    with pytest.raises(UnicodeDecodeError):
        answer.body.decode()
    assert answer.body.replace(b"\xe2\x82", b"") == got(shape, "").body, "but for that all is whole"


@each_shape
def test_huge(shape: Shape):
    answer = got(shape, "fault=huge&huge_bytes=300000")
    assert max(len(frame) for frame in answer.body.split(b"\n")) > 300_000
    assert contents(shape, answer) == WORDS


@each_shape
def test_duplicate_start(shape: Shape):
    answer = got(shape, "fault=duplicate_start&after=2")
    if shape in NOT_IN["duplicate_start"]:
        assert answer.status == 400
        return
    kinds = answer.kinds(shape)
    starts = [number for number, kind in enumerate(kinds) if kind == "start"]
    assert kinds[: starts[-1]].count("content") == 2
    assert len(starts) == 2 * got(shape, "").kinds(shape).count("start")


@each_shape
def test_comments(shape: Shape):
    answer, good = got(shape, "fault=comments"), got(shape, "")
    assert len(answer.events(shape)) == 2 * len(good.events(shape))
    assert text_in(shape, answer) == text_in(shape, good)


@each_shape
def test_split(shape: Shape):
    pieces: list[bytes] = []

    def collect(answer: Got) -> bool:
        pieces.append(answer.body)
        return False

    answer, good = got(shape, "fault=split", leave=collect), got(shape, "")
    assert answer.body == good.body
    assert len(pieces) == 2 * len(good.events(shape)) + 1
    assert any(_ends_inside_a_character(piece) for piece in pieces)


def _ends_inside_a_character(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return False


@each_shape
def test_missing_usage(shape: Shape):
    words = (b'"usage":{', b'"usageMetadata"', b"eval_count")
    assert any(word in got(shape, "").body for word in words)
    answer = got(shape, "fault=missing_usage")
    assert not any(word in answer.body for word in words)
    assert contents(shape, answer) == WORDS


@each_shape
def test_missing_finish(shape: Shape):
    answer = got(shape, "fault=missing_finish")
    if shape in NOT_IN["missing_finish"]:
        assert answer.status == 400
    else:
        assert "finish" in got(shape, "").kinds(shape)
        assert "finish" not in answer.kinds(shape)
        assert answer.ended == "whole"


@each_shape
def test_missing_done(shape: Shape):
    answer = got(shape, "fault=missing_done")
    if shape in NOT_IN["missing_done"]:
        assert answer.status == 400
    else:
        assert "done" in got(shape, "").kinds(shape)
        assert "done" not in answer.kinds(shape)
        assert answer.ended == "whole"


@each_shape
def test_html(shape: Shape):
    answer = got(shape, "fault=html")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html")
    assert answer.body.startswith(b"<!DOCTYPE html>")


@each_shape
def test_refusal(shape: Shape):
    answer = got(shape, "fault=refusal")
    words = {
        "openai-chat": b'"refusal":"I',
        "openai-responses": b"response.refusal.delta",
        "anthropic": b'"stop_reason":"refusal"',
        "gemini": b'"finishReason":"SAFETY"',
        "ollama": "I can’t help".encode(),  # noqa: RUF001  # a model's own text is all that it has
    }
    said = text_in(shape, answer).encode() if shape == "ollama" else answer.body
    assert words[shape] in said
    assert answer.ended == "whole"


@each_shape
def test_no_answer(shape: Shape):
    async def test(loopback: Loopback) -> None:
        model = "words?fault=no_answer"
        asking = asyncio.create_task(ask(loopback.url, shape, model))
        await until(lambda: bool(loopback.seen))
        assert (loopback.seen[0].outcome, loopback.seen[0].status) == ("playing", 0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: loopback.seen[0].outcome == "client_closed")

    run(test)


@each_shape
def test_drop(shape: Shape):
    answer = got(shape, "fault=drop")
    assert (answer.status, answer.ended) == (0, "reset")


# -- which calls have it ------------------------------------------------------------------------------


@each_shape
def test_a_fault_of_the_first_calls_passes(shape: Shape):
    async def test(loopback: Loopback) -> list[int]:
        model = "words?fault=server&times=2"
        return [(await ask(loopback.url, shape, model)).status for _ in range(4)]

    assert run(test) == [500, 500, 200, 200]


def test_faults_that_contradict_each_other_are_refused():
    answer = got("openai-chat", "fault=cut,server")
    assert (answer.status, b"one way only" in answer.body) == (400, True)


def test_a_fault_that_nobody_knows_is_refused_and_the_known_are_named():
    answer = got("openai-chat", "fault=nonsense")
    assert answer.status == 400
    assert all(fault in answer.body.decode() for fault in FAULTS)
