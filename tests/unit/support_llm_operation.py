"""A whole operation over a real socket: a provider that answers as the test says, and all that came of it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from connectors.kafka.chunk import SourcePartition
from connectors.llm.book import Book
from connectors.llm.calls import Target
from connectors.llm.client import provider_client
from connectors.llm.desk import RoutingDesk
from connectors.llm.emitter import Emitter
from connectors.llm.kept_answers import Gathered
from connectors.llm.ledger import attempt_of
from connectors.llm.metrics import LlmMetrics
from connectors.llm.offsets import Tenure
from connectors.llm.operation import Operation
from connectors.llm.options import FlushOptions
from connectors.llm.providers import PROVIDERS
from connectors.llm.tools import Tools
from schemas.catalog import LocalSchemas
from schemas.payloads import PayloadCodec
from schemas.topics import INPUT, LLM_ATTEMPTS, LLM_CONTENTS, LLM_RAW
from schemas.wire import WireCodec
from tests.unit.test_llm_routing import asked, put

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from connectors.llm.ledger import Attempt
    from connectors.llm.recording import Recording

    Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def chunk(text: str = "", finish: str | None = None) -> str:
    """An event of OpenAI's chat completions."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


def head(status: str = "200 OK", **headers: str) -> bytes:
    """The beginning of an answer that ends with its connection."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode()


def said(*texts: str, whole: bool = True) -> bytes:
    """A good answer, or one that breaks off."""
    end = chunk(finish="stop") + "data: [DONE]\n\n" if whole else ""
    return head() + ("".join(map(chunk, texts)) + end).encode()


def refusal(status: str, error: str = "no", **headers: str) -> bytes:
    """An answer of another status."""
    return head(status, **headers) + json.dumps({"error": {"message": error}}).encode()


class World:
    """One operation's; ``rows`` are the ledger's as they were committed, ``events`` the stream's."""

    asked_ago_us = 0
    """How long ago it was asked for."""
    before: Any = None
    """Called with the operation before it runs."""

    def __init__(self, *answers: Answer, known: Any = None, budgets: Any = None, **route: Any) -> None:
        self._answers = list(answers)
        self._known = known
        self._budgets = budgets
        self._first_attempt = route.pop("first_attempt", 1)
        self._route = route
        self.wire, self.payloads = WireCodec(LocalSchemas()), PayloadCodec(LocalSchemas())
        self.calls: list[dict[str, Any]] = []
        self.rows: list[Attempt] = []
        self.contents: list[Attempt] = []
        """The same with what was sent and what came, where any of it is kept."""
        self.events: list[tuple[str, int, dict[str, Any]]] = []
        self.attempts: set[int] = set()
        """Those that the stream's tokens name."""
        self.raw: list[dict[str, Any]] = []
        self.over = False
        """Whether its request will not come again."""
        self.tools: dict[str, Any] = {}
        self.metrics = LlmMetrics(lambda: 0)
        self.operation: Operation

    async def put(self, tenure: Tenure, rows: Any, *, ends: int | None = None) -> None:
        """See Committer."""
        self.over = self.over or ends is not None
        for row in rows:
            if row.topic is LLM_ATTEMPTS:
                self.rows.append(attempt_of(self.wire.decode(row.value, LLM_ATTEMPTS.subject)))
            elif row.topic is LLM_CONTENTS:
                self.contents.append(attempt_of(self.wire.decode(row.value, LLM_CONTENTS.subject)))
            else:
                self.send(row.key, row.value, row.partition)

    full = False
    """See KafkaOutlet."""

    async def acknowledged(self, key: bytes) -> None:
        """See KafkaOutlet."""

    def send(self, key: bytes, value: bytes, partition: int, topic: Any = INPUT) -> None:
        """See Outlet."""
        if topic is LLM_RAW:
            self.raw.append(self.wire.decode(value, LLM_RAW.subject))
            return
        event = self.wire.decode_event(value)
        self.attempts |= {event.attempt} if event.type == "token" else set()
        fields = self.payloads.decode(event.payload_schema, event.payload)
        self.events.append((event.type, event.epoch, fields))

    @property
    def shown(self) -> str:
        """The text that a client ends up with."""
        texts: list[str] = []
        for name, _, fields in self.events:
            if name == "reset":
                texts.clear()
            elif name == "token":
                texts.append(fields["text"])
        return "".join(texts)

    @property
    def end(self) -> str:
        """How it ended, which it did once."""
        (reason,) = [fields["reason"] for name, _, fields in self.events if name == "end"]
        return reason

    def kept(self, attempt: int = 1) -> Recording:
        """What was kept of an attempt, as ``sluicegate llm record --stream`` gives it."""
        records = [record for record in self.raw if record["attempt"] == attempt]
        gathered = Gathered(records[0]["shape"])
        for record in records:
            gathered.take(record)
        return gathered.recording("")

    def types(self) -> list[str]:
        """Types of the events, in order."""
        return [name for name, _, _ in self.events]

    def run(self, *, aside: Any = None, **asking: Any) -> World:
        """Do it, with ``aside(world)`` beside it."""
        asyncio.run(asyncio.wait_for(self._run(aside, asking), 60))
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        size = int(request.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        self.calls.append(json.loads(await reader.readexactly(size)))
        answer = self._answers.pop(0)
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
        else:
            await answer(writer)
        writer.close()

    async def _run(self, aside: Any, asking: dict[str, Any]) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        base_url = self._route.pop("base_url", f"http://127.0.0.1:{port}/v1")
        here = Target("here", self._route.pop("shape", "openai-chat"), base_url)
        other = Target("other", self._route.pop("other", "openai-chat"), base_url)
        # port 1 is nobody's, and refuses at once
        gone = Target("gone", "openai-chat", "http://127.0.0.1:1/v1")
        book = Book({target.name: target for target in (here, other, gone)})
        candidates = self._route.pop("candidates", [{"target": "here", "model": "m"}])
        put(book, "default", 1, {"candidates": candidates, **self._route})
        if self._budgets is not None:
            put(book, "budgets", 1, self._budgets)
        assert not book.refused
        request = asked(**asking)
        async with server, provider_client() as client:
            tools = Tools(**{
                "desk": RoutingDesk(book), "client": client, "providers": PROVIDERS, "committer": self,
                "outlet": self, "wire": self.wire, "worker": "w", "queue_ms_max": 10**9, "judges": {},
                "metrics": self.metrics, **self.tools,
            })  # fmt: skip
            loop = asyncio.get_running_loop()
            emitter = Emitter(request.to, 3, self, self.wire, self.payloads, FlushOptions(), loop)
            tenure = Tenure(SourcePartition("llm.requests.v1", 3), 0, 0, 0)
            self.asked_us = now_us = time.time_ns() // 1_000 - self.asked_ago_us
            self.operation = Operation(
                tools,
                tenure,
                7,
                now_us,
                request.to,
                request,
                self._known,
                emitter,
                b"one",
                "open-1",
                self._first_attempt,
            )
            if self.before is not None:
                self.before(self.operation)
            task = loop.create_task(self.operation.run())
            if aside is not None:
                await aside(self)
            await task
