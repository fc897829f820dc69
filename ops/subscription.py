"""One stream as an edge sends it, each event once, over as many connections as that takes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx2 as httpx

from ops.answers import (
    AGAIN,
    Trouble,
    check_media,
    object_of,
    refusal,
    retry_after_s,
    trouble_in,
    trouble_of,
    unreachable,
)
from ops.errors import Refused
from schemas.envelope import check_stream_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from ops.patience import Patience

# An idle stream carries a comment every few seconds (the kind's heartbeat); a connection silent for
# this long is dead, though nobody said so: a cable was pulled, a machine went to sleep.
_SILENCE_S_MAX = 60.0
_RETRY_HINT_S_MAX = 5.0


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event as the edge delivered it: its cursor and its flat JSON."""

    cursor: str
    fields: dict[str, object]

    @property
    def type(self) -> str:
        """The event's type, as ``log`` or ``end``."""
        return str(self.fields.get("type", ""))


class _NothingMoreError(Exception):
    """204: the cursor is past the stream's end."""


class _ComeBackError(Exception):
    """The edge asks to come back later."""

    def __init__(self, trouble: Trouble, after_s: float = 0.0) -> None:
        super().__init__(trouble.said)
        self.trouble = trouble
        self.after_s = after_s


def stream_path(tenant: str, stream_id: str) -> str:
    """Give the path of a stream at an edge; raises InvalidEvent for a name that no stream can have."""
    check_stream_name(tenant, stream_id)
    return f"/v1/streams/{quote(stream_id, safe='')}"


class Subscription:
    """Where a reader of one stream stands."""

    def __init__(self, http: httpx.AsyncClient, tenant: str, stream_id: str, cursor: str | None) -> None:
        self._http = http
        self._tenant = tenant
        self._path = f"{stream_path(tenant, stream_id)}/events"
        self._cursor = cursor
        self._last_id = ""
        self._hint_s = 0.0

    async def events(
        self, patience: Patience, on_trouble: Callable[[str], None]
    ) -> AsyncGenerator[StreamEvent, None]:
        """Give each event once; stop after ``end`` or when the edge says that there is nothing more.

        Resumes by ``Last-Event-ID`` when a connection breaks. Raises Refused for a cursor or a stream
        that the edge does not take, EdgeUnreachable when the patience is over.
        """
        while True:
            after_s = 0.0
            try:
                async with aclosing(self._connection(patience)) as events:
                    async for event in events:
                        yield event
                        if event.type == "end":
                            return
                trouble = Trouble("the edge closed the connection")
            except _NothingMoreError:
                return
            except _ComeBackError as later:
                trouble, after_s = later.trouble, later.after_s
            except httpx.TransportError as error:
                trouble = trouble_of(error)
            pause_s = patience.pause_s(at_least_s=max(after_s, min(self._hint_s, _RETRY_HINT_S_MAX)))
            if pause_s is None:
                raise unreachable(str(self._http.base_url), patience.allowed_s, trouble)
            on_trouble(trouble.said)
            await asyncio.sleep(pause_s)

    async def _connection(self, patience: Patience) -> AsyncGenerator[StreamEvent, None]:
        query = {"tenant": self._tenant}
        headers = {"accept": "text/event-stream", "cache-control": "no-store"}
        if self._last_id:
            headers["last-event-id"] = self._last_id
        elif self._cursor:
            query["last_event_id"] = self._cursor
        async with self._http.stream(
            "GET",
            self._path,
            params=query,
            headers=headers,
            timeout=httpx.Timeout(10.0, read=_SILENCE_S_MAX),
        ) as response:
            await _check(response)
            patience.answered()
            async for frame in httpx.EventSource(response):
                if frame.retry is not None:
                    self._hint_s = frame.retry / 1000
                if not frame.data:
                    continue
                event = StreamEvent(frame.id, object_of(frame.data))
                if event.type == "refused":
                    raise _refused(event)
                if event.type == "reconnect":
                    raise _ComeBackError(Trouble("the edge asks to connect anew"))
                if event.type == "expiring":
                    continue  # a command has one token: when that ends, it is told so by the status
                patience.succeeded()
                self._last_id = frame.id or self._last_id
                yield event


async def _check(response: httpx.Response) -> None:
    if response.status_code == 204:
        raise _NothingMoreError
    if response.is_success:
        check_media(response, "text/event-stream")
        return
    await response.aread()
    if response.status_code in AGAIN:
        raise _ComeBackError(trouble_in(response), retry_after_s(response))
    raise refusal(response)


def _refused(event: StreamEvent) -> Refused:
    """What is said in the stream, as a status would say it: of the cursor, or of the kind."""
    code, detail, remedy = (str(event.fields.get(name, "")) for name in ("code", "detail", "remedy"))
    return Refused(403 if code == "forbidden" else 400, f"the edge refused: {detail or code}", remedy)
