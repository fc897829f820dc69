"""Connections are used again: a body's end that comes after its answer's is waited for, beside all else."""

from __future__ import annotations

import asyncio

import pytest

from connectors.llm import transport
from connectors.llm.attempt import Attempt
from connectors.llm.calls import Call, Target
from connectors.llm.client import provider_client
from connectors.llm.plan import Choice, Timers
from connectors.llm.providers import PROVIDERS
from connectors.llm.transport import TAIL_BYTES_MAX
from tests.unit.test_llm_attempt import Sink

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = b'data: {"choices":[{"index":0,"delta":{"content":"A"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
FILTERED = WHOLE.replace(b'"stop"', b'"content_filter"')
BROKEN = b'data: {"error":{"message":"no"}}\n\n'
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Provider:
    """Answers, and ends each body when it is told to; it keeps what became of its connections."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.connections = 0
        self.closed = asyncio.Event()
        self._out: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._out = writer
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                size = int(request.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                await reader.readexactly(size)
                writer.write(HEAD + chunk(self._answer))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
        finally:
            writer.close()

    def say(self, data: bytes) -> None:
        assert self._out is not None
        self._out.write(data)


def tails():
    return [task for task in asyncio.all_tasks() if "_tail" in repr(task.get_coro())]


def playing(answer, scene):
    """Run a scene with a provider, and with what asks it once and gives the error."""

    async def run():
        provider = Provider(answer)
        server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
        target = Target("here", "openai-chat", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        call = Call("m", [{"role": "user", "content": "hi"}])
        async with server, provider_client() as client:

            async def ask():
                choice = Choice(target, "m", Timers())
                outcome = await Attempt(client, PROVIDERS["openai-chat"], choice, call, Sink()).run(30)
                return outcome.error_class

            await scene(provider, ask)
        assert not tails(), "none outlives its client"

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize(
    ("answer", "error"), [(WHOLE, None), (FILTERED, "content_refused")], ids=["whole", "filtered"]
)
def test_a_body_that_ends_after_its_answer_leaves_its_connection_for_the_next(answer, error, monkeypatch):
    monkeypatch.setattr(transport, "TAIL_S", 5.0)  # no stall of this machine is to fail it

    async def scene(provider, ask):
        for _ in range(5):
            assert await ask() == error, "the answer does not wait for the end of its body"
            provider.say(LAST_CHUNK)
            await asyncio.sleep(0.01)
        assert provider.connections == 1
        assert not provider.closed.is_set()

    playing(answer, scene)


@pytest.mark.parametrize(
    ("answer", "more"),
    [(WHOLE, b""), (WHOLE, chunk(b":" * TAIL_BYTES_MAX)), (BROKEN, b"")],
    ids=["silent", "goes on", "failed"],
)
def test_a_connection_on_which_no_end_comes_is_closed(answer, more):
    async def scene(provider, ask):
        await ask()
        provider.say(more)
        await asyncio.wait_for(provider.closed.wait(), 10)
        await ask()
        assert provider.connections == 2

    playing(answer, scene)


def test_what_is_still_waited_for_ends_with_its_client(monkeypatch):
    monkeypatch.setattr(transport, "TAIL_S", 600.0)

    async def scene(provider, ask):
        assert await ask() is None
        assert tails()
        provider.say(chunk(b":"))

    playing(WHOLE, scene)
