"""A client of the loopback provider that hides nothing: the body's bytes, and how the connection ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import orjson

from connectors.llm.loopback.answers import SHAPES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connectors.llm.calls import Shape

WORDS_SCHEMA = {"type": "object", "properties": {"place": {"type": "string"}, "count": {"type": "integer"}}}
PATHS: Mapping[str, str] = {
    "openai-chat": "/v1/chat/completions",
    "openai-responses": "/v1/responses",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/{model}:streamGenerateContent?alt=sse",
    "ollama": "/api/chat",
}


@dataclass
class Got:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: str = ""
    """``whole`` (the body's own end), ``closed``, ``reset``, or ``left`` (by us)."""

    def events(self, shape: Shape) -> list[tuple[str, Any]]:
        """Give the whole frames, (name, value or text); comments are ("", None)."""
        events: list[tuple[str, Any]] = []
        if SHAPES[shape].framing == "ndjson":
            return [("", value_of(line)) for line in self.body.split(b"\n")[:-1]]
        for frame in self.body.split(b"\n\n")[:-1]:
            name, data = "", None
            for line in frame.split(b"\n"):
                field_name, _, value = line.partition(b": ")
                name = value.decode() if field_name == b"event" else name
                data = value if field_name == b"data" else data
            events.append((name, None if data is None else value_of(data)))
        return events

    def kinds(self, shape: Shape) -> list[str]:
        return [SHAPES[shape].kind(name, value) for name, value in self.events(shape)]


def value_of(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return data.decode("utf-8", "surrogateescape")


def body_of(shape: Shape, model: str, text: str = "tell me of the river", *, tool: bool = False) -> bytes:
    """Give a request's body as its documentation has it."""
    function = {"name": "look", "description": "looks", "parameters": WORDS_SCHEMA}
    message = {"role": "user", "content": text}
    bodies: Mapping[str, dict[str, Any]] = {
        "openai-chat": {
            "model": model, "messages": [message], "stream": True, "stream_options": {"include_usage": True},
        },
        "openai-responses": {"model": model, "input": [message], "stream": True},
        "anthropic": {"model": model, "messages": [message], "stream": True, "max_tokens": 10_000},
        "gemini": {"contents": [{"role": "user", "parts": [{"text": text}]}]},
        "ollama": {"model": model, "messages": [message]},
    }  # fmt: skip
    tools: Mapping[str, Any] = {
        "openai-chat": {"type": "function", "function": function},
        "openai-responses": {"type": "function", **function},
        "anthropic": {"name": "look", "input_schema": WORDS_SCHEMA},
        "gemini": {"functionDeclarations": [function]},
        "ollama": {"type": "function", "function": function},
    }
    return orjson.dumps(bodies[shape] | ({"tools": [tools[shape]]} if tool else {}))


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own time is the bound."""
    while not holds():  # noqa: ASYNC110  # what it looks at tells nobody when it changes
        await asyncio.sleep(0.005)


async def ask(
    url: str,
    shape: Shape,
    model: str,
    *,
    tool: bool = False,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    leave: Callable[[Got], bool] = lambda _: False,
) -> Got:
    """Ask and read until the end, or until ``leave`` says that it is enough."""
    path = PATHS[shape].format(model=quote(model, safe=""))
    return await send(url, "POST", path, body or body_of(shape, model, tool=tool), headers, leave)


async def send(
    url: str,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    leave: Callable[[Got], bool] = lambda _: False,
) -> Got:
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    said = {"host": where.netloc, "content-length": str(len(body)), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
    writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
    got = Got()
    try:
        await _read(reader, got, leave)
    except asyncio.IncompleteReadError:
        got.ended = "closed"
    except ConnectionResetError:
        got.ended = "reset"
    finally:
        writer.close()
    return got


async def _read(reader: asyncio.StreamReader, got: Got, leave: Callable[[Got], bool]) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    got.status = int(head[0].split()[1])
    got.headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    if "content-length" in got.headers:
        got.body = await reader.readexactly(int(got.headers["content-length"]))
        got.ended = "whole"
        return
    while not leave(got):
        size = int(await reader.readuntil(b"\r\n"), 16)
        got.body += (await reader.readexactly(size + 2))[:-2]
        if size == 0:
            got.ended = "whole"
            return
    got.ended = "left"
