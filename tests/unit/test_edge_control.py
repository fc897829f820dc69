"""The control plane as its app answers it: what a cancel's body may take, and lists of many streams."""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from edge.app import EdgeApp, compose
from edge.control import _CANCEL_BYTES_MAX
from edge.index import SLICE, IndexEntry
from tests.unit.support_pressure import Scene, backpressure, play, publishing

if TYPE_CHECKING:
    from edge.publish import Publisher

CANCEL = "/v1/streams/s/cancel"
OTHERS = "/v1/streams/s-0/cancel"


class Request:
    """One to an app, whose body comes as a test sends it."""

    def __init__(self, app: EdgeApp, method: str, path: str, query: str = "") -> None:
        self.status = 0
        self._body = b""
        self._parts: asyncio.Queue[tuple[bytes, bool] | None] = asyncio.Queue()
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
            "query_string": query.encode(), "headers": [(b"host", b"localhost")], "http_version": "1.1",
            "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        self.answered = asyncio.ensure_future(app(scope, self._receive, self._send))

    def send(self, part: bytes = b"", *, more: bool = False) -> Request:
        self._parts.put_nowait((part, more))
        return self

    def leave(self) -> Request:
        self._parts.put_nowait(None)
        return self

    async def answer(self) -> tuple[int, Any]:
        await self.answered
        return self.status, json.loads(self._body)

    async def _receive(self) -> dict[str, Any]:
        if (sent := await self._parts.get()) is None:
            return {"type": "http.disconnect"}
        part, more = sent
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


def test_a_tenant_whose_bodies_do_not_come_leaves_places_to_the_others():
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"), publishing_max=8, request_read_ms_max=300)
        with publishing(edge) as (publisher, kept):
            app = app_of(edge, publisher)
            slow = [Request(app, "POST", CANCEL).send(b'{"by"', more=True) for _ in range(20)]
            refused = await asyncio.gather(*[one.answer() for one in slow[6:]])
            assert all(status == 503 and "6 of them this" in said["detail"] for status, said in refused)
            listed(edge, range(1), "other")
            status, _ = await Request(app, "POST", OTHERS, "tenant=other").send(b"{}").answer()
            assert (status, [event.tenant for event in kept.events]) == (202, ["other"])
            assert [(await one.answer())[0] for one in slow[:6]] == [408] * 6

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


def test_a_client_that_leaves_in_its_body_is_counted_as_such_and_gives_its_place_back():
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"), publishing_max=1)
        with publishing(edge) as (publisher, kept):
            app = app_of(edge, publisher)
            for path in (CANCEL, "/v1/streams/s/events"):
                await Request(app, "POST", path).send(b'{"by"', more=True).leave().answered
            assert edge.counted("publish_requests_total", status="499") == 2
            status, _ = await Request(app, "POST", CANCEL).send(b"{}").answer()
            assert (status, len(kept.events)) == (202, 1)

    play(scene())


# -- lists ------------------------------------------------------------------------------------------------


def entry(number: int, tenant: str = "default") -> IndexEntry:
    """Of a stream that was opened in a second of its own, and in another order than it came."""
    return IndexEntry(
        tenant, f"s-{number}", "job", "", {}, 0, 1, opened_us=opened_us(number), open_offset=0, mark_seqs=[],
        mark_offsets=[], last_seq=0, updated_us=0,
    )  # fmt: skip


def opened_us(number: int) -> int:
    return (number * 7_919 % 20_011) * 1_000_000


def listed(scene: Scene, numbers: range, tenant: str = "default") -> None:
    for number in numbers:
        scene.core.index.put(f"{tenant}/s-{number}".encode(), entry(number, tenant))


def newest(numbers: range, limit: int) -> list[str]:
    return [f"s-{number}" for number in sorted(numbers, key=opened_us, reverse=True)[:limit]]


async def list_of(app: EdgeApp, query: str) -> list[str]:
    status, said = await Request(app, "GET", "/v1/streams", query).send().answer()
    assert status == 200
    return [one["stream_id"] for one in said["streams"]]


@pytest.mark.parametrize("tenant", ["default", "other"], ids=["who sees all", "who sees none"])
def test_the_loop_has_its_turn_while_many_streams_are_listed(tenant):
    async def scene() -> None:
        edge, turns = Scene(backpressure("drop_old")), 0
        edge.core.index.remove(b"default/s")
        listed(edge, range(10_000))

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        going = asyncio.create_task(others())
        await list_of(app := app_of(edge), "limit=1")  # the framework's own turns, once it is warm
        turns = 0
        await list_of(app, f"tenant={tenant}")
        many, turns = turns, 0
        for number in range(10_000):
            edge.core.index.remove(b"default/s-%d" % number)
        await list_of(app, f"tenant={tenant}")
        going.cancel()
        assert many - turns >= 10_000 // SLICE - 1

    play(scene())


@pytest.mark.parametrize("limit", [1, 100, 1_000])
def test_a_list_has_those_that_were_opened_last_newest_first_and_of_the_tenant_that_is_asked_for(limit):
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"))
        edge.core.index.remove(b"default/s")
        listed(edge, range(5_000))
        listed(edge, range(5_000, 10_000), "other")
        app = app_of(edge)
        assert await list_of(app, f"limit={limit}") == newest(range(10_000), limit)
        assert await list_of(app, f"limit={limit}&tenant=other") == newest(range(5_000, 10_000), limit)

    play(scene())


def test_a_list_is_of_when_it_was_asked_for_though_streams_come_and_go_meanwhile():
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"))
        index = edge.core.index
        index.remove(b"default/s")
        listed(edge, range(10_000))

        async def come_and_go() -> None:
            for number in range(10_000):
                index.remove(b"default/s-%d" % number)
                index.put(b"default/new-%d" % number, entry(20_000 + number))
                index.get(b"default/s-%d" % (9_999 - number // 2))
                if number % 50 == 0:
                    await asyncio.sleep(0)

        asked = [
            asyncio.create_task(index.newest(100, lambda one: one.tenant == "default")) for _ in range(2)
        ]
        await asyncio.sleep(0)
        going = asyncio.create_task(come_and_go())
        first, second = await asyncio.gather(*asked)
        assert not going.done()
        assert [one.stream_id for one in first] == newest(range(10_000), 100)
        # The other had its turn when the first was answered: it has what there was then, each once, in order.
        assert len({one.stream_id for one in second}) == 100
        assert second == sorted(second, key=lambda one: one.opened_us, reverse=True)
        await going

    play(scene())


@pytest.mark.parametrize(
    ("method", "path", "query", "says"),
    [
        ("GET", "/v1/streams", "limits=3", "did you mean 'limit'?"),
        ("GET", "/v1/streams/s", "tennant=acme", "did you mean 'tenant'?"),
        ("GET", "/v1/streams/s/rejects", "limit=3", "tenant"),
        ("GET", "/v1/connections", "slow=true&policy=drop_old", "slow, limit, own"),
        ("POST", "/v1/streams/s/events", "tennant=acme&kind=job", "did you mean 'tenant'?"),
        ("POST", CANCEL, "reason=enough", "tenant"),
        ("GET", "/v1/streams/s/events", "last-event-id=x", "did you mean 'last_event_id'?"),
        ("GET", "/v1/streams/s/events", "cursor=x", "tenant, last_event_id, lastEventId"),
        ("GET", "/v1/ws", "stream=s", "there are none"),
    ],
)
def test_a_parameter_that_is_not_known_is_an_error_and_not_another_request(method, path, query, says):
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"))
        with publishing(edge) as (publisher, kept):
            app = app_of(edge, publisher)
            status, said = await Request(app, method, path, query).send(b"{}").answer()
            assert status == 400
            assert f"{said['field']}=" in f"{query}&"
            assert says in said["detail"] + said["remedy"]
            assert kept.events == []
            assert edge.core.hub.followers == 0

    play(scene())


def test_a_token_in_the_query_is_known_wherever_it_stands():
    async def scene() -> None:
        app = app_of(Scene(backpressure("drop_old")))
        for path in ("/v1/streams", "/v1/connections"):
            status, _ = await Request(app, "GET", path, "limit=3&access_token=x").send().answer()
            assert status == 200

    play(scene())
