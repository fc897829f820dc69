"""One call of a provider: its bytes → events → deltas, under its timers; whatever happens is an outcome."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import httpx2
import structlog

from connectors.kafka.errors import KafkaFailure
from connectors.llm.deltas import WHOLE, Alive, Failed, Finished, Media, Named, Over, Piece, Usage
from connectors.llm.errors import CallRefused, place_of
from connectors.llm.extent import Extent
from connectors.llm.framing import Frame, framer
from connectors.llm.masking import Mask
from connectors.llm.transport import CONNECTED
from connectors.llm.watch import Watch
from schemas.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connectors.llm.calls import Call, Target
    from connectors.llm.deltas import Delta, ErrorClass, Finish
    from connectors.llm.framing import Framed
    from connectors.llm.plan import Choice
    from connectors.llm.provider import Normaliser, Provider

log = structlog.get_logger(__name__)

ERROR_BODY_MAX: Final = 65_536
"""Bytes of an answer of another status that are read."""
_REFUSALS: Final = frozenset({"content_filter", "refusal"})


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

    def raw(self, event: str, data: str) -> None:
        """Take an event as it came, before it is read."""
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
    retry_after_ms: int = 0
    finish: Finish = ""
    finish_raw: str = ""
    usage: Usage | None = None
    http_status: int = 0
    chunks: int = 0
    sent: bool = True
    """Whether the provider may have been given anything; what it began to answer may be billed."""
    had_content: bool = False
    had_tool_call: bool = False


class Attempt:
    """One call; ``stop`` ends it from outside, ``run`` is awaited once."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        provider: Provider,
        choice: Choice,
        call: Call,
        sink: Sink,
        room: Room | None = None,
    ) -> None:
        self._client = client
        self._provider = provider
        self._choice = choice
        self._call = call
        self._sink = sink
        self._room = room
        self._watch: Watch | None = None
        self._stopped: ErrorClass | None = None
        self._over = False
        self._extent = Extent()
        self.outcome = Outcome()

    def stop(self, why: ErrorClass) -> None:
        """End it now: the connection is closed, and ``run`` returns."""
        self._stopped = self._stopped or why
        if self._watch is not None:
            self._watch.stop(why)

    async def run(self, total_s: float) -> Outcome:
        """Make the call, for ``total_s`` seconds at most. Raises nothing but a foreign cancellation."""
        outcome = self.outcome
        if self._stopped is not None:
            outcome.error_class, outcome.sent = self._stopped, False
            return outcome
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        self._watch = watch = Watch(loop, task, self._choice.timers, total_s)
        try:
            await self._read(watch, loop.time)
        except asyncio.CancelledError:
            # A partition that is taken away at the same moment cancels, too: that must not be lost.
            if watch.why is None or task.uncancel() > 0:
                raise
            told = None if watch.why == "cancelled" else outcome.error_class
            outcome.error_class = told or watch.why
        except Ended as end:
            outcome.error_class, outcome.error_raw = end.error_class, str(end)
        except CallRefused as refused:
            outcome.error_class, outcome.error_raw = "bad_request", str(refused)
        except httpx2.TransportError as error:
            broke: ErrorClass = "truncated" if outcome.http_status else "connect"
            outcome.error_class, outcome.error_raw = broke, f"{type(error).__name__}: {error}"
        except httpx2.HTTPError as error:
            outcome.error_class, outcome.error_raw = "malformed", f"{type(error).__name__}: {error}"
        except (KafkaFailure, SchemaError):  # ours, not the provider's
            raise
        except Exception as error:  # noqa: BLE001  no answer may end the worker that all share
            outcome.error_class, outcome.error_raw = "malformed", _broken(error, self._choice.target)
        finally:
            watch.close()
            outcome.sent = watch.connected
        outcome.error_raw = Mask.of(self._choice.target)(outcome.error_raw)
        return outcome

    async def _read(self, watch: Watch, now_s: Callable[[], float]) -> None:
        provider, outcome, target = self._provider, self.outcome, self._choice.target
        request = provider.request(self._call, target)
        async with self._client.stream(
            "POST",
            request.url,
            headers=dict(request.headers),
            content=request.body,
            extensions={CONNECTED: watch.connect},
        ) as response:
            watch.connect()  # whatever the transport tells
            outcome.http_status = response.status_code
            self._sink.connected(response.status_code)
            headers = {name.lower(): value for name, value in response.headers.items()}
            self._sink.named(provider.named(headers))
            if response.status_code != 200:
                await self._refused(response, headers)
                return
            normaliser = provider.normaliser()
            frames = framer(provider.framing)
            async for data in response.aiter_bytes():
                _check(self._extent.read(len(data)))
                self._frames(frames.feed(data), normaliser, watch, now_s)
                if self._over:
                    return
                if self._room is not None and self._room.full:
                    await self._wait_for(self._room, watch)
            self._frames(frames.eof(), normaliser, watch, now_s)
            if not self._over:
                self._take(normaliser.eof(), watch, now_s)

    async def _refused(self, response: httpx2.Response, headers: dict[str, str]) -> None:
        """Say what an answer of another status means, by its status and what comes of its body."""
        body = b""
        try:
            async for data in response.aiter_bytes():
                body += data
                if len(body) >= ERROR_BODY_MAX:
                    break
        except httpx2.HTTPError:  # it broke off, or cannot be decoded
            pass
        finally:  # a timer may have ended it, too
            self._fail(self._provider.failed(response.status_code, headers, body[:ERROR_BODY_MAX]))

    @staticmethod
    async def _wait_for(room: Room, watch: Watch) -> None:
        """Read no more until there is room: the provider is held up by TCP, and not blamed for it."""
        watch.hold()
        try:
            await room.emptied()
        finally:
            watch.go_on()

    def _frames(
        self, frames: Sequence[Framed], normaliser: Normaliser, watch: Watch, now_s: Callable[[], float]
    ) -> None:
        for frame in frames:
            deltas: Sequence[Delta] = (frame,) if not isinstance(frame, Frame) else ()
            if isinstance(frame, Frame):
                self.outcome.chunks += 1
                self._sink.raw(frame.event, frame.data)
                deltas = normaliser.take(frame.event, frame.data)
            if self._over:  # nothing follows the end; but what came with an error may say what it cost
                deltas = [delta for delta in deltas if isinstance(delta, Usage)]
            self._take(deltas, watch, now_s)

    def _take(self, deltas: Sequence[Delta], watch: Watch, now_s: Callable[[], float]) -> None:
        outcome = self.outcome
        for delta in deltas:
            match delta:
                case Piece() | Media():
                    _check(self._extent.take(delta))
                    watch.content_s = now_s()
                    outcome.had_content = True
                    outcome.had_tool_call = outcome.had_tool_call or getattr(delta, "channel", "") == "tool"
                    self._sink.content(delta)
                case Usage():
                    outcome.usage = delta if outcome.usage is None else outcome.usage.updated(delta)
                case Named():
                    self._sink.named(delta)
                case Finished():
                    outcome.finish, outcome.finish_raw = delta.finish, delta.raw
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
            outcome.error_class, outcome.error_raw = failed.error_class, failed.raw
            outcome.retry_after_ms = failed.retry_after_ms

    def _settle(self) -> None:
        """The provider says that it is done: whether that was a whole answer is for its finish to say."""
        outcome = self.outcome
        self._over = True
        if outcome.error_class is not None or outcome.finish in WHOLE:
            return
        outcome.error_class = "content_refused" if outcome.finish in _REFUSALS else "truncated"


def _check(problem: str) -> None:
    if problem:
        raise Ended("malformed", problem)


def _broken(error: Exception, target: Target) -> str:
    """Log a defect of ours without its message."""
    kind = type(error).__name__
    log.error("llm_attempt_broke", target=target.name, error=kind, at=place_of(error))
    return f"it could not be read: {kind}"
