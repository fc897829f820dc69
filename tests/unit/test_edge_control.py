"""The control plane as its app answers it: what a cancel's body may take."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from edge.app import EdgeApp, compose
from edge.control import _CANCEL_BYTES_MAX
from tests.unit.support_pressure import Scene, backpressure, play, publishing

if TYPE_CHECKING:
    from edge.publish import Publisher

CANCEL = "/v1/streams/s/cancel"


class Request:
    """One to an app, whose body comes as a test sends it."""

    def __init__(self, app: EdgeApp, method: str, path: str, query: str = "") -> None:
        self.status = 0
        self._body = b""
        self._parts: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
            "query_string": query.encode(), "headers": [(b"host", b"localhost")], "http_version": "1.1",
            "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        self.answered = asyncio.ensure_future(app(scope, self._receive, self._send))

    def send(self, part: bytes = b"", *, more: bool = False) -> Request:
        self._parts.put_nowait((part, more))
        return self

    async def answer(self) -> tuple[int, Any]:
        await self.answered
        return self.status, json.loads(self._body)

    async def _receive(self) -> dict[str, Any]:
        part, more = await self._parts.get()
        return {"type": "http.request", "body": part, "more_body": more}

    async def _send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self._body += message.get("body", b"")


def app_of(scene: Scene, publisher: Publisher | None = None) -> EdgeApp:
    return compose(scene.core, publisher, lambda _: nullcontext())  # type: ignore[arg-type]  # never begun


def test_a_cancel_is_published_with_what_its_body_says():
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"))
        with publishing(edge) as (publisher, kept):
            status, _ = await Request(app_of(edge, publisher), "POST", CANCEL).send(b'{"by":"me"}').answer()
            assert (status, [event.type for event in kept.events]) == (202, ["cancel"])

    play(scene())


def test_cancels_whose_bodies_do_not_come_are_answered_and_no_more_of_them_are_read_than_there_are_places():
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"), publishing_max=3, request_read_ms_max=100)
        with publishing(edge) as (publisher, kept):
            app = app_of(edge, publisher)
            slow = [Request(app, "POST", CANCEL).send(b'{"by"', more=True) for _ in range(10)]
            answers = await asyncio.gather(*[one.answer() for one in slow])
            assert sorted(status for status, _ in answers) == [408] * 3 + [503] * 7
            assert edge.counted("publish_requests_total", status="408") == 3
            status, _ = await Request(app, "POST", CANCEL).send(b"{}").answer()
            assert (status, len(kept.events)) == (202, 1)  # every place was given back

    play(scene())


@pytest.mark.parametrize(("more", "status"), [(0, 202), (1, 413)])
def test_a_cancel_has_a_bound_of_its_own(more, status):
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"))
        with publishing(edge) as (publisher, _):
            asked = Request(app_of(edge, publisher), "POST", CANCEL)
            body = b'{"by":"me"}'.ljust(_CANCEL_BYTES_MAX + more)
            got, said = await asked.send(body[:5_000], more=True).send(body[5_000:]).answer()
            assert got == status, said
            assert status == 202 or f"a cancel is at most {_CANCEL_BYTES_MAX} bytes" in said["detail"]

    play(scene())
