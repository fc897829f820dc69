"""Which refused questions are written to the log, and that nothing of what was asked is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from edge.access.doorkeeper import _KEY
from edge.access.identity import Identity, Names
from edge.errors import RequestError
from edge.llm.ask import Asker
from edge.llm.asked import Asked, read
from edge.llm.openai_asked import question_of
from edge.llm.refusals import LINES_MAX, WINDOW_S, Refusals
from edge.llm.routes import llm_routes
from edge.problems import on_error
from schemas.catalog import LocalSchemas
from schemas.errors import InvalidEvent, SluicegateError
from schemas.kinds import JOB
from schemas.wire import WireCodec
from tests.unit.support_pressure import Scene, play, publishing

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

WIRE = WireCodec(LocalSchemas())
SECRET = "whatisthecurefor"


def refused_by(reader, body):
    with pytest.raises(RequestError) as raised:
        reader(body.encode())
    return raised.value


def ours(body):
    return refused_by(lambda data: read(Asked, data), body)


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (ours('{"prompt": "p", "params": {"temperature": "whatisthecurefor"}}'), "params.temperature"),
        (ours('{"prompt": "p", "whatisthecurefor": 1}'), "*"),
        (ours('{"prompt": "p", "variables": {"whatisthecurefor": 1}}'), "variables.*"),
        (ours('{"prompt": "p", "variables": {"whatis.thecurefor": 1}}'), "variables.*.*"),
        (ours('{"prompt": "p", "variables": {"4111111111111111": 1}}'), "variables.*"),
        (ours('{"prompt": "p", "variables": {"1234": 1}}'), "variables.*"),
        (InvalidEvent("messages.41111", "is no place in a list"), "messages.*"),
        (ours('{"messages": [{"role": "whatisthecurefor", "content": ""}]}'), "messages.0.role"),
        (refused_by(question_of, '{"model": "m", "messages": [], "logprobs": true}'), "logprobs"),
        (ours("{}"), "request"),
        (InvalidEvent("stream_id", "has 'whatisthecurefor' in it"), "stream_id"),
    ],
    ids=[
        "params",
        "unknown",
        "variable",
        "dotted",
        "digits",
        "few-digits",
        "no-place",
        "role",
        "logprobs",
        "empty",
        "name",
    ],
)
def test_a_line_tells_whose_question_was_refused_and_for_which_field_of_ours(error, field):
    with capture_logs() as lines:
        Refusals().note("acme", error)
    (line,) = lines
    assert (line["tenant"], line["field"]) == ("acme", field)
    assert line["status"] in (400, 422)
    assert SECRET not in str(lines)
    assert SECRET[6:] not in str(lines)


def test_a_code_is_told_a_made_up_tenant_is_not_and_what_is_no_fault_of_the_question_is_no_line():
    unknown = RequestError(
        404, "No such model", f"no {SECRET}", extra={"code": "model_not_found", "field": "model"}
    )
    with capture_logs() as lines:
        refusals = Refusals()
        refusals.note(f"{SECRET} of mine", unknown)
        for status in (401, 403, 409, 429, 503):
            refusals.note("acme", RequestError(status, "no", "not now"))
    (line,) = lines
    assert (line["tenant"], line["status"], line["code"], line["field"]) == (
        "*",
        404,
        "model_not_found",
        "model",
    )


def test_a_flood_fills_no_log_and_is_counted():
    now_s = [0.0]
    refusals = Refusals(lambda: now_s[0])
    error = RequestError(413, "Too large", "is too large")
    with capture_logs() as lines:
        for _ in range(LINES_MAX + 500):
            refusals.note("acme", error)
        assert len(lines) == LINES_MAX
        now_s[0] = WINDOW_S
        refusals.note("acme", error)
        refusals.note("acme", error)
    assert lines[LINES_MAX]["not_logged_before"] == 500
    assert "not_logged_before" not in lines[LINES_MAX + 1]


@pytest.mark.parametrize("path", ["llm/streams", "chat/completions", "messages"])
@pytest.mark.parametrize(
    ("identity", "statuses", "tenants"),
    [
        (Identity(tenants=Names(("other",)), scopes=frozenset({"publish"})), (403,), []),
        (Identity(tenants=Names(("*",)), scopes=frozenset({"subscribe"})), (403,), []),
        (Identity(tenants=Names(("acme",)), scopes=frozenset({"publish"})), (400, 422), ["acme"]),
    ],
    ids=["tenant", "scope", "may"],
)
def test_who_may_not_ask_for_a_tenant_hears_so_before_what_they_ask_is_read_and_fills_no_log(
    path, identity, statuses, tenants
):
    async def scene() -> httpx2.Response:
        edge = Scene(JOB.backpressure)
        with publishing(edge) as (publisher, _):
            asker = Asker(edge.core, publisher, WIRE, topic_prefix="")
            app = FastAPI(exception_handlers={SluicegateError: on_error})
            app.include_router(llm_routes(edge.core, asker, publisher))

            async def known(scope: Scope, receive: Receive, send: Send) -> None:
                await app({**scope, _KEY: identity}, receive, send)

            transport = httpx2.ASGITransport(known)
            async with httpx2.AsyncClient(transport=transport, base_url="http://edge") as client:
                return await client.post(f"/v1/{path}?tenant=acme", json={SECRET: 1})

    with capture_logs() as lines:
        answer = play(scene())
    assert answer.status_code in statuses, answer.text
    assert [line["tenant"] for line in lines if line["event"] == "llm_question_refused"] == tenants
