"""Connections that act for somebody: until their token ends, is renewed, or is taken back."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

import orjson

from edge.access.identity import Identity, Names
from edge.access.options import AccessOptions
from edge.access.revocations import Revocation
from edge.admission import Admission
from edge.core import EdgeCore
from edge.frame import frame_of
from edge.history import SharedHistory
from edge.join import Joined
from edge.options import EdgeOptions
from edge.recorded import MemoryLog
from edge.sse import SseConnection
from schemas.catalog import LocalSchemas
from schemas.envelope import Event
from schemas.payloads import PayloadCodec
from tests.support.fake_transport import LIMITS, FakeTransport

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from edge.frame import Frame

EVERY = Names(("*",))


def somebody(
    *, life_s: float = inf, kinds: Names = EVERY, streams: Names = EVERY, token_id: str = ""
) -> Identity:
    return Identity(
        EVERY, streams, kinds, frozenset({"subscribe"}), token_id=token_id, expires_s=time.time() + life_s
    )


class Desk:
    """A core over a log in memory, and connections to stream ``s`` that come as all do: by admission."""

    def __init__(self, warning_ms: int = 300) -> None:
        options = EdgeOptions(access=AccessOptions(expiry_warning_ms=warning_ms), write_stall_ms_max=60_000)
        self.core = EdgeCore(options, PayloadCodec(LocalSchemas()), topic_version=1)
        self.log = MemoryLog()
        self.core.feed_from(self.log, SharedHistory(self.log.read, 1 << 20))
        self.core.start()

    async def connect(self, identity: Identity) -> tuple[SseConnection, FakeTransport]:
        joined = await Admission(self.core).join("sse", "default", "s", None, "test", identity=identity)
        assert isinstance(joined, Joined)
        connection = SseConnection(self.core, joined, LIMITS, head=(), chunked=False)
        return connection, FakeTransport().serve(connection)

    def emit(self, seq: int, type_name: str = "log", kind: str = "job") -> None:
        event = Event("e", "default", "s", seq, kind, type_name, 1, "", "", "", "", "", 0, 0, b"", 0)

        def make(offset: int) -> Frame:
            frame = frame_of(event, topic_version=1, partition=0, offset=offset, read_ms=0)
            frame.json = orjson.dumps({"type": type_name, "seq": seq})
            return frame

        self.core.hub.publish([(event.key, self.log.append(event.key, make))])


def told(out: FakeTransport) -> list[Any]:
    """What was said: seq of events, and what is about the connection by its type and more."""
    found: list[Any] = []
    for data in re.findall(rb"data: (.*)\n", out.data):
        fields = orjson.loads(data)
        found.append(fields.get("seq", (fields["type"], fields.get("reason") or fields.get("code"))))
    return found


def play(scene: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(scene, 60))


async def until(done: Any) -> None:
    while not done():  # noqa: ASYNC110  # nobody tells what a connection writes
        await asyncio.sleep(0.005)


def test_a_connection_is_warned_and_ends_with_its_token():
    async def scene() -> FakeTransport:
        desk = Desk()
        _, out = await desk.connect(somebody(life_s=1))
        desk.emit(0, "open")
        await until(out.is_closing)
        return out

    assert told(play(scene())) == [0, ("expiring", None), ("reconnect", "expired")]


def test_a_token_that_ends_soon_is_warned_of_at_once_and_one_without_end_never():
    async def scene() -> tuple[FakeTransport, FakeTransport]:
        desk = Desk(warning_ms=60_000)
        _, soon = await desk.connect(somebody(life_s=5))
        _, never = await desk.connect(somebody())
        await until(lambda: told(soon))
        return soon, never

    soon, never = play(scene())
    assert told(soon) == [("expiring", None)]
    assert told(never) == []


def test_the_end_that_is_told_is_the_tokens_own_and_the_edges_leeway_is_not_counted_in():
    async def scene() -> FakeTransport:
        desk = Desk(warning_ms=60_000)
        _, out = await desk.connect(replace(somebody(life_s=5), leeway_s=600))
        _, over = await desk.connect(replace(somebody(life_s=-5), leeway_s=600))
        await until(lambda: told(out) and told(over))
        assert b'"expires_in_ms":0}' in over.data  # good for a while yet, and the client must not rely on it
        assert not over.is_closing()
        return out

    said = re.search(rb'"expires_in_ms":(\d+)}', play(scene()).data)
    assert said is not None
    assert 0 < int(said[1]) <= 5_000


def test_a_new_token_in_time_keeps_the_connection_and_its_place():
    async def scene() -> FakeTransport:
        desk = Desk()
        connection, out = await desk.connect(somebody(life_s=0.6))
        desk.emit(0, "open")
        await until(lambda: ("expiring", None) in told(out))
        connection.authorise(somebody(life_s=60))
        await asyncio.sleep(1.0)
        desk.emit(1)
        desk.emit(2, "end")
        await until(out.is_closing)
        return out

    assert told(play(scene())) == [0, ("expiring", None), 1, 2]


def test_a_new_token_while_nothing_is_taken_does_not_end_the_connection_as_stalled():
    async def scene() -> FakeTransport:
        desk = Desk()
        connection, out = await desk.connect(somebody(life_s=60))
        out.full = True
        desk.emit(0, "open")
        await until(lambda: connection.paused)
        connection.authorise(somebody(life_s=90))
        await asyncio.sleep(0.3)  # the wheel turns
        out.drain()
        desk.emit(1, "end")
        await until(out.is_closing)
        assert not out.aborted
        return out

    assert told(play(scene())) == [0, 1]


def test_a_new_token_that_does_not_allow_a_stream_ends_its_delivery():
    async def scene() -> FakeTransport:
        desk = Desk()
        connection, out = await desk.connect(somebody())
        desk.emit(0, "open")
        await until(lambda: told(out))
        connection.authorise(somebody(streams=Names(("other",))))
        desk.emit(1)
        await until(out.is_closing)
        return out

    assert told(play(scene())) == [0, ("refused", "forbidden")]


def test_a_kind_that_is_not_allowed_is_never_written_whenever_it_becomes_known():
    async def scene() -> list[FakeTransport]:
        desk = Desk()
        _, allowed = await desk.connect(somebody(kinds=Names(("job",))))
        _, refused = await desk.connect(somebody(kinds=Names(("llm",))))
        narrowed, in_group = await desk.connect(somebody())
        narrowed.authorise(somebody(kinds=Names(("llm",))))
        desk.emit(0, "open")
        desk.emit(1, "end")
        await until(lambda: all(out.is_closing() for out in (allowed, refused, in_group)))
        _, late = await desk.connect(somebody(kinds=Names(("llm",))))
        await until(late.is_closing)
        assert desk.core.hub.followers == 0
        return [allowed, refused, in_group, late]

    allowed, *refused = play(scene())
    assert told(allowed) == [0, 1]
    assert [told(out) for out in refused] == [[("refused", "forbidden")]] * 3


def test_a_new_token_is_what_a_kind_is_judged_by_also_where_the_one_before_it_allowed_less():
    async def scene() -> list[FakeTransport]:
        desk, outs = Desk(), []
        for kinds in (EVERY, Names(("job",)), Names(("llm", "job")), Names(("chat",))):
            connection, out = await desk.connect(somebody(kinds=Names(("llm",))))
            connection.authorise(somebody(kinds=kinds))
            outs.append(out)
        desk.emit(0, "open")
        desk.emit(1, "end")
        await until(lambda: all(out.is_closing() for out in outs))
        return outs

    *allowed, refused = play(scene())
    assert [told(out) for out in allowed] == [[0, 1]] * 3
    assert told(refused) == [("refused", "forbidden")]


def test_what_is_open_under_a_revoked_token_is_closed_also_if_nobody_reads_there():
    async def scene() -> tuple[FakeTransport, FakeTransport, FakeTransport]:
        desk = Desk()
        _, reads = await desk.connect(somebody(token_id="j1"))
        _, deaf = await desk.connect(somebody(token_id="j1"))
        _, other = await desk.connect(somebody(token_id="j2"))
        deaf.full = True
        desk.emit(0, "open")
        await until(lambda: all(told(out) for out in (reads, deaf, other)))
        desk.core.revoked([(b"jti:j1", Revocation("jti", "j1", 0, 0))])
        return reads, deaf, other

    reads, deaf, other = play(scene())
    assert told(reads) == [0, ("reconnect", "revoked")]
    assert (deaf.aborted, other.is_closing()) == (True, False)


def test_a_client_that_reads_on_after_its_token_has_ended_is_given_nothing_more():
    async def scene() -> FakeTransport:
        desk = Desk(warning_ms=0)
        _, out = await desk.connect(somebody(life_s=0.3))
        out.full = True
        desk.emit(0, "open")
        await until(lambda: told(out))
        await asyncio.sleep(0.5)
        desk.emit(1)
        out.drain()
        await until(out.is_closing)
        return out

    assert told(play(scene())) == [0, ("reconnect", "expired")]


def test_somebody_who_may_not_read_a_stream_does_not_join_it_whether_it_exists_or_not():
    async def scene() -> list[str]:
        desk = Desk()
        found = []
        for name in ("s", "none"):
            desk.emit(0, "open")
            try:
                await Admission(desk.core).join("sse", "default", name, None, "t", identity=Identity())
            except Exception as error:  # noqa: BLE001  # which one is the question
                found.append(f"{type(error).__name__} {error}".replace(f"/{name}", "/NAME"))
        assert desk.core.hub.followers == 0
        return found

    first, second = play(scene())
    assert first == second
    assert first.startswith("Forbidden")
