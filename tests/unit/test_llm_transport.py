"""aiohttp under httpx2: what comes, what a broken connection is called, and that leaving closes it."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from connectors.llm.loopback.server import Loopback
from connectors.llm.transport import AiohttpTransport
from tests.support.loopback_client import until


def run(test):
    """Run a test with a provider on loopback and a client of it."""

    async def inner():
        async with (
            Loopback() as loopback,
            httpx2.AsyncClient(
                transport=AiohttpTransport(), timeout=None, trust_env=False, verify=False
            ) as client,
        ):
            return await asyncio.wait_for(test(loopback, client), 60)

    return asyncio.run(inner())


def asking(loopback, client, model, **headers):
    """Ask for an answer, to be entered."""
    asked = {"model": model, "stream": True, "messages": [{"role": "user", "content": "é→"}]}
    url = f"{loopback.url}/v1/chat/completions"
    return client.stream("POST", url, json=asked, headers=headers)


def test_status_headers_and_body_are_the_providers_and_the_request_is_the_callers():
    async def test(loopback, client):
        async with asking(loopback, client, "echo", **{"x-mine": "yes", "user-agent": "me"}) as response:
            body = await response.aread()
        return response, body, loopback.seen[0]

    response, body, seen = run(test)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-request-id"] == "req_loopback_1"
    assert "é→".encode() in body
    assert body.endswith(b"data: [DONE]\n\n")
    assert (seen.headers["x-mine"], seen.headers["user-agent"]) == ("yes", "me")
    assert list(seen.headers).count("content-type") == 1


def test_an_answer_that_was_read_leaves_its_connection_for_the_next():
    async def test(loopback, client):
        for _ in range(3):
            async with asking(loopback, client, "echo") as response:
                await response.aread()
        return len(loopback.connections)

    assert run(test) == 1


@pytest.mark.parametrize("fault", ["cut", "closed"])
def test_a_body_that_breaks_is_a_transport_error(fault):
    async def test(loopback, client):
        async with asking(loopback, client, f"words?fault={fault}&after=2") as response:
            assert response.status_code == 200
            async for _ in response.aiter_bytes():
                pass

    with pytest.raises(httpx2.TransportError):
        run(test)


def test_no_answer_is_a_transport_error_and_nobody_there_a_connect_error():
    async def dropped(loopback, client):
        async with asking(loopback, client, "words?fault=drop"):
            pass

    async def nobody(loopback, client):
        await client.post("http://127.0.0.1:1/v1/chat/completions", json={})

    with pytest.raises(httpx2.TransportError):
        run(dropped)
    with pytest.raises(httpx2.ConnectError):
        run(nobody)


def test_leaving_amid_an_answer_closes_the_connection_at_once():
    async def test(loopback, client):
        async with asking(loopback, client, "words?tokens=1000&rate=50") as response:
            async for _ in response.aiter_bytes():
                break
        await until(lambda: loopback.seen[0].outcome != "playing")
        return loopback.seen[0]

    seen = run(test)
    assert seen.outcome == "client_closed"
    assert seen.sent < 500


def test_a_task_that_is_cancelled_while_it_waits_closes_the_connection():
    async def test(loopback, client):
        async def read():
            async with asking(loopback, client, "words?fault=stall&after=1") as response:
                async for _ in response.aiter_bytes():
                    pass

        task = asyncio.create_task(read())
        await until(lambda: bool(loopback.seen) and loopback.seen[0].sent > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: loopback.seen[0].outcome != "playing")
        return loopback.seen[0].outcome

    assert run(test) == "client_closed"


def test_a_refusal_is_an_answer():
    async def test(loopback, client):
        async with asking(loopback, client, "words?fault=server") as response:
            return response.status_code, await response.aread()

    status, body = run(test)
    assert status == 500
    assert b"error" in body
