"""One call of a provider: its bytes → events → deltas, under its timers; whatever happens is an outcome.

An answer that its provider keeps is read over more than one connection: where one breaks, the next goes on
behind the last event that was read whole. It stays one call, which is paid for once.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import httpx2
import structlog

from connectors.kafka.errors import KafkaFailure
from connectors.llm.deltas import WHOLE, Alive, Failed, Finished, Media, Named, Over, Piece, Usage
from connectors.llm.errors import CallRefused, place_of, unquoted
from connectors.llm.extent import Extent
from connectors.llm.framing import Frame, framer
from connectors.llm.masking import Mask
from connectors.llm.provider import Keeping
from connectors.llm.transport import CONNECTED, ENDED
from connectors.llm.watch import Watch
from schemas.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from connectors.llm.calls import Call, HttpCall, Target
    from connectors.llm.deltas import Delta, ErrorClass, Finish
    from connectors.llm.framing import Framed, Framer
    from connectors.llm.plan import Choice
    from connectors.llm.provider import Cursor, Normaliser, Provider

log = structlog.get_logger(__name__)

ERROR_BODY_MAX: Final = 65_536
"""Bytes of an answer of another status that are read."""
_QUOTED: Final = re.compile(r"(bytearray\()?b?['\"].*", re.DOTALL)
_REFUSALS: Final = frozenset({"content_filter", "refusal"})
_READ: Final = (None, "content_refused")
"""Ends of an answer of which nothing more comes: its connection can be used again."""
_BREAKS: Final[frozenset[ErrorClass]] = frozenset(
    ("connect", "timeout_connect", "timeout_first_content", "timeout_between_contents", "truncated",
     "rate_limited", "overloaded", "server")
)  # fmt: skip
"""What a connection may end by while the answer goes on."""
FRUITLESS_MAX: Final = 4
"""Connections one after the other that bring nothing new; then the answer is given up."""
RESUMES_MAX: Final = 32
"""Of one answer, whatever they bring."""
_BACKOFF_S: Final = 0.25
OWED_S: Final = 0.5
"""So long what a call took is waited for behind its failure; OpenAI tells within some 25 ms. What follows
(another candidate, the end) waits for it: it stands on the ledger behind this attempt's settlement."""
OWED_BYTES_MAX: Final = 65_536
DROP_S: Final = 5.0
"""A provider that is not told in time that nobody reads an answer any more finishes it, and bills for it."""


class Sink(Protocol):
    """Who takes what comes, on the loop; it may end the attempt by raising Ended."""

    def connected(self, status: int) -> None:
        """Take the answer's status."""
        ...

    def content(self, delta: Piece | Media) -> None:
        """Take content."""
        ...

    def named(self, named: Named) -> None:
        """Take names that the provider gave."""
        ...

    def failed(self) -> None:
        """Take that the answer broke, while what it took is still awaited. It may be gone on with."""
        ...

    def raw(self, event: str, data: str) -> None:
        """Take an event as it came, before it is read."""
        ...

    def comment(self, text: str) -> None:
        """Take a comment, or another line that is no event's data."""
        ...

    def body(self, status: int, headers: Mapping[str, str], text: str) -> None:
        """Take an answer that is no events: a refusal, a page of HTML; ``…`` ends one that was cut."""
        ...


class Room(Protocol):
    """Where the content goes in the end: it may be full for a while."""

    @property
    def full(self) -> bool:
        """Whether nothing more should be read."""
        ...

    async def emptied(self) -> None:
        """Return when it is not."""
        ...


class Ended(Exception):
    """The sink wants no more: why, in our words and in words for a person."""

    def __init__(self, error_class: ErrorClass, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class


@dataclass(slots=True)
class Outcome:
    """How a call went; ``error_class`` is empty after a whole answer."""

    error_class: ErrorClass | None = None
    error_raw: str = ""
    """What is known of it without anybody's words."""
    said: str = ""
    """The provider's own words of it."""
    retry_after_ms: int = 0
    finish: Finish = ""
    finish_raw: str = ""
    stop_sequence: str = ""
    usage: Usage | None = None
    http_status: int = 0
    chunks: int = 0
    refused: CallRefused | None = None
    """Why nothing was sent, in our words: the shape has none for what is asked."""
    sent: bool = True
    """Whether the provider may have been given anything; what it began to answer may be billed."""
    had_content: bool = False
    had_tool_call: bool = False
    resumed: int = 0
    """Connections after the first."""
    left: str = ""
    """Name of an answer that its provider still goes on with, though nobody reads it."""

    @property
    def declined(self) -> bool:
        """Whether the model refused, whose words are all there; a filter cuts an answer short."""
        return self.error_class == "content_refused" and self.finish == "refusal"


class Attempt:
    """One call; ``stop`` ends it from outside, ``run`` is awaited once.

    With a ``cursor`` nobody is asked anew: the answer, which a worker that died was reading, is read on.
    """

    def __init__(
        self,
        client: httpx2.AsyncClient,
        provider: Provider,
        choice: Choice,
        call: Call,
        sink: Sink,
        room: Room | None = None,
        cursor: Cursor | None = None,
    ) -> None:
        self._client = client
        self._provider = provider
        self._choice = choice
        self._call = call
        self._sink = sink
        self._room = room
        self._watch: Watch | None = None
        self._stopped: ErrorClass | None = None
        self._halted = asyncio.Event()
        self._over = False
        self._extent = Extent()
        self._cursor = cursor
        self._normaliser: Normaliser | None = None
        self.outcome = Outcome()

    def stop(self, why: ErrorClass) -> None:
        """End it now: the connection is closed, and ``run`` returns."""
        self._stopped = self._stopped or why
        self._halted.set()
        if self._watch is not None:
            self._watch.stop(why)

    async def run(self, total_s: float) -> Outcome:
        """Make the call, for ``total_s`` seconds at most. Raises nothing but a foreign cancellation."""
        outcome = self.outcome
        if self._stopped is not None:
            outcome.error_class, outcome.sent = self._stopped, self._cursor is not None
            outcome.left = self._cursor.answer_id if self._cursor is not None else ""
            return outcome
        ends_s = asyncio.get_running_loop().time() + min(self._choice.timers.total_ms / 1_000, total_s)
        if self._cursor is None:
            await self._connection(lambda: self._provider.request(self._call, self._choice.target), ends_s)
        else:
            outcome.error_class, outcome.error_raw = "crashed", "its worker died"
        if self._call.background and isinstance(self._provider, Keeping):
            await self._go_on(self._provider, ends_s)
        mask = Mask.of(self._choice.target)
        outcome.error_raw, outcome.said = mask(outcome.error_raw), mask(outcome.said)
        return outcome

    async def _go_on(self, provider: Keeping, ends_s: float) -> None:
        """Read an answer on, connection after connection, until it is over or is given up."""
        outcome, target = self.outcome, self._choice.target
        broke: tuple[ErrorClass | None, str, int] = (
            outcome.error_class,
            outcome.error_raw,
            outcome.http_status,
        )
        fruitless = 0
        while (cursor := self._kept_to()) is not None and self._may_go_on(fruitless):
            await self._halts(_BACKOFF_S * 2 ** (fruitless - 1) if fruitless else 0)
            if self._stopped is not None:
                outcome.error_class, outcome.error_raw = self._stopped, ""
                break
            if outcome.http_status == 200:
                broke = (outcome.error_class, outcome.error_raw, 200)
            outcome.error_class, outcome.error_raw, outcome.http_status = None, "", 0
            outcome.said, outcome.retry_after_ms = "", 0
            outcome.resumed += 1
            self._over = False
            if self._normaliser is not None:
                self._normaliser.reconnected()
            await self._connection(partial(provider.resume, cursor, target), ends_s)
            fruitless = 0 if self._kept_to() != cursor else fruitless + 1
        if outcome.error_class is None:
            outcome.error_raw = f"gone on with {outcome.resumed} times; {broke[1]}" if outcome.resumed else ""
            return
        if outcome.resumed and outcome.http_status != 200 and self._stopped is None:
            # Why it cannot be gone on with says nothing of the call itself, which is what may be made again.
            why = f"; to go on with it: {outcome.error_class}: {outcome.error_raw}"
            outcome.error_class, outcome.error_raw, outcome.http_status = broke[0], broke[1] + why, broke[2]
        outcome.left = cursor.answer_id if cursor is not None else ""

    def _may_go_on(self, fruitless: int) -> bool:
        outcome = self.outcome
        broke = outcome.error_class in _BREAKS or (outcome.error_class == "crashed" and not outcome.resumed)
        return broke and fruitless < FRUITLESS_MAX and outcome.resumed < RESUMES_MAX

    def _kept_to(self) -> Cursor | None:
        return self._cursor if self._normaliser is None else self._normaliser.cursor

    async def _halts(self, for_s: float) -> None:
        """Wait so long, or until it is stopped."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._halted.wait(), for_s)

    async def _connection(self, request: Callable[[], HttpCall], ends_s: float) -> None:
        """Read one connection to its end; how that came about is the outcome's."""
        outcome, loop, task = self.outcome, asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        left_s = max(ends_s - loop.time(), 0)
        self._watch = watch = Watch(loop, task, self._choice.timers, left_s)
        try:
            await self._read(request(), watch)
        except asyncio.CancelledError:
            # A partition that is taken away at the same moment cancels, too: that must not be lost.
            if watch.why is None or task.uncancel() > 0:
                raise
            told = None if watch.why == "cancelled" else outcome.error_class
            outcome.error_class = told or watch.why
        except Ended as end:
            outcome.error_class, outcome.error_raw = end.error_class, str(end)
        except CallRefused as refused:
            outcome.error_class, outcome.error_raw = "bad_request", unquoted(str(refused))
            outcome.refused = refused
        except httpx2.TransportError as error:
            broke: ErrorClass = "truncated" if outcome.http_status else "connect"
            outcome.error_class, outcome.error_raw = broke, _said_of(error)
        except httpx2.HTTPError as error:
            outcome.error_class, outcome.error_raw = "malformed", _said_of(error)
        except (KafkaFailure, SchemaError):  # ours, not the provider's
            raise
        except Exception as error:  # noqa: BLE001  no answer may end the worker that all share
            outcome.error_class, outcome.error_raw = "malformed", _broken(error, self._choice.target)
        finally:
            watch.close()
            self._watch = None  # who stops it between two connections must not cancel the task
            outcome.sent = watch.connected or outcome.resumed > 0

    async def _read(self, request: HttpCall, watch: Watch) -> None:
        provider, outcome = self._provider, self.outcome
        async with _sent(self._client, request, **{CONNECTED: watch.connect}) as response:
            watch.connect()  # whatever the transport tells
            outcome.http_status = response.status_code
            self._sink.connected(response.status_code)
            headers = {name.lower(): value for name, value in response.headers.items()}
            if not self._call.background:  # its own name is what it can be gone on with by
                self._sink.named(provider.named(headers))
            if response.status_code != 200:
                await self._refused(response, headers)
                return
            head = bytearray()
            try:
                await self._events(response, head, watch)
                if outcome.error_class in _READ and (ended := response.extensions.get(ENDED)):
                    ended()
            finally:
                if head and not outcome.chunks:
                    self._sink.body(response.status_code, headers, _text(head))

    async def _events(self, response: httpx2.Response, head: bytearray, watch: Watch) -> None:
        """Read an answer's events; ``head`` is given the bytes of one in which there is none."""
        normaliser = self._normaliser = self._normaliser or self._provider.normaliser()
        frames = framer(self._provider.framing)
        body = response.aiter_bytes()
        async for data in body:
            _check(self._extent.read(len(data)))
            if not self.outcome.chunks:
                head += data[: ERROR_BODY_MAX + 1 - len(head)]
            self._frames(frames.feed(data), normaliser, watch)
            if self._over:
                if self.outcome.error_class is not None:
                    self._sink.failed()
                await self._owed(body, frames, normaliser, watch)
                return
            if self._room is not None and self._room.full:
                await self._wait_for(self._room, watch)
        if self._call.background and normaliser.cursor is not None:
            self._fail(Failed("truncated", "the body ended before the answer did"))
            return
        self._frames(frames.eof(), normaliser, watch)
        if not self._over:
            self._take(normaliser.eof(), watch)

    async def _owed(
        self, body: AsyncIterator[bytes], frames: Framer, normaliser: Normaliser, watch: Watch
    ) -> None:
        """Read on behind a failure for what the call took; how it failed is known, whatever comes of this."""
        left = OWED_BYTES_MAX
        with contextlib.suppress(TimeoutError, httpx2.HTTPError):
            async with asyncio.timeout(OWED_S):
                while normaliser.owes and left > 0 and (data := await anext(body, b"")):
                    self._frames(frames.feed(data), normaliser, watch)
                    left -= len(data)

    async def _refused(self, response: httpx2.Response, headers: dict[str, str]) -> None:
        """Say what an answer of another status means, by its status and what comes of its body."""
        body, unread = b"", ""
        try:
            async for data in response.aiter_bytes():
                body += data
                if len(body) > ERROR_BODY_MAX:
                    break
        except httpx2.DecodingError as error:  # nothing of it was read
            unread = str(error)
        except httpx2.HTTPError:  # it broke off
            pass
        finally:  # a timer may have ended it, too
            self._sink.body(response.status_code, headers, _text(body))
            said = unread.encode() or body[:ERROR_BODY_MAX]
            failed = self._provider.failed(response.status_code, headers, said)
            self._fail(replace(failed, masked="") if unread else failed)

    @staticmethod
    async def _wait_for(room: Room, watch: Watch) -> None:
        """Read no more until there is room: the provider is held up by TCP, and not blamed for it."""
        watch.hold()
        try:
            await room.emptied()
        finally:
            watch.go_on()

    def _frames(self, frames: Sequence[Framed], normaliser: Normaliser, watch: Watch) -> None:
        for frame in frames:
            deltas: Sequence[Delta] = (frame,) if not isinstance(frame, Frame) else ()
            if isinstance(frame, Frame):
                self.outcome.chunks += 1
                self._sink.raw(frame.event, frame.data)
                deltas = normaliser.take(frame.event, frame.data)
            elif isinstance(frame, Alive):
                self._sink.comment(frame.raw)
            if self._over:  # nothing follows the end; but what came with an error may say what it cost
                deltas = [delta for delta in deltas if isinstance(delta, Usage)]
            self._take(deltas, watch)

    def _take(self, deltas: Sequence[Delta], watch: Watch) -> None:
        outcome = self.outcome
        for delta in deltas:
            match delta:
                case Piece() | Media():
                    _check(self._extent.take(delta))
                    watch.content()
                    outcome.had_content = True
                    outcome.had_tool_call = outcome.had_tool_call or getattr(delta, "channel", "") == "tool"
                    self._sink.content(delta)
                case Usage():
                    outcome.usage = delta if outcome.usage is None else outcome.usage.updated(delta)
                case Named():
                    self._sink.named(delta)
                case Finished():
                    outcome.finish, outcome.finish_raw = delta.finish, delta.raw
                    if delta.stop_sequence in self._call.params.stop:  # and not some server's other word
                        outcome.stop_sequence = delta.stop_sequence
                case Failed():
                    self._fail(delta)
                case Over():
                    self._settle()
                case Alive():
                    pass

    def _fail(self, failed: Failed) -> None:
        outcome = self.outcome
        self._over = True
        if outcome.error_class is None:
            outcome.error_class, outcome.error_raw = failed.error_class, failed.masked or failed.raw
            outcome.said = failed.raw if failed.masked else ""
            outcome.retry_after_ms = failed.retry_after_ms

    def _settle(self) -> None:
        """The provider says that it is done: whether that was a whole answer is for its finish to say."""
        outcome = self.outcome
        self._over = True
        if outcome.error_class is not None or outcome.finish in WHOLE:
            return
        outcome.error_class = "content_refused" if outcome.finish in _REFUSALS else "truncated"


async def drop(client: httpx2.AsyncClient, provider: Provider, target: Target, answer_id: str) -> None:
    """Have a provider end an answer that nobody reads any more, if it keeps any and can be told in time."""
    if not isinstance(provider, Keeping):
        return
    try:
        async with asyncio.timeout(DROP_S), _sent(client, provider.drop(answer_id, target)) as response:
            problem = "" if response.status_code == 200 else f"status {response.status_code}"
    except (httpx2.HTTPError, TimeoutError) as error:
        problem = type(error).__name__
    if problem:
        log.warning("llm_answer_not_dropped", target=target.name, answer=answer_id, cause=problem)


def _sent(
    client: httpx2.AsyncClient, request: HttpCall, **extensions: Any
) -> AbstractAsyncContextManager[httpx2.Response]:
    return client.stream(
        request.method,
        request.url,
        headers=dict(request.headers),
        content=request.body,
        extensions=extensions,
    )


def _text(body: bytes | bytearray) -> str:
    """Give a body as it is kept; ``…`` ends one that is longer."""
    return body[:ERROR_BODY_MAX].decode("utf-8", "replace") + "…" * (len(body) > ERROR_BODY_MAX)


def _said_of(error: httpx2.HTTPError) -> str:
    """Say what a library says, without the bytes of an answer that it quotes."""
    return f"{type(error).__name__}: {_QUOTED.sub('…', str(error))}"


def _check(problem: str) -> None:
    if problem:
        raise Ended("oversized", problem)


def _broken(error: Exception, target: Target) -> str:
    """Log a defect of ours without its message."""
    kind = type(error).__name__
    log.error("llm_attempt_broke", target=target.name, error=kind, at=place_of(error))
    return f"it could not be read: {kind}"
