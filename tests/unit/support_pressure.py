"""An edge over a log in memory, a stream whose kind a test chooses, and clients that read no more."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edge.core import EdgeCore
from edge.frame import frame_of
from edge.history import SharedHistory
from edge.index import IndexEntry
from edge.join import Joined, Over
from edge.options import EdgeOptions
from edge.publish import Publisher
from edge.recorded import MemoryLog
from edge.slowing import Counts, Said
from edge.sse import HEADERS, SseConnection
from edge.upgrade import WebSocketShare
from schemas.catalog import LocalSchemas
from schemas.envelope import Event
from schemas.kinds import JOB, LOG, BackpressurePolicy, KindTable
from schemas.payloads import PayloadCodec
from schemas.wire import WireCodec
from tests.support.fake_transport import LIMITS, FakeTransport
from tests.unit.support_websocket import connect

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping

    from edge.frame import Frame
    from schemas.topics import TopicSpec
    from tests.unit.support_websocket import Peer

KEY = b"default/s"
BOUND = 10
MANY_BYTES = 1 << 30
_SCHEMAS = LocalSchemas()


def key_of(stream: str) -> bytes:
    return f"default/{stream}".encode()


def backpressure(policy: str, **others: Any) -> BackpressurePolicy:
    usual = BackpressurePolicy(policy, BOUND, MANY_BYTES, 1.0, 60_000, "drop_old")  # type: ignore[arg-type]
    return replace(usual, **others)


class Told:
    """Takes what an edge tells, in place of Kafka."""

    told = dropped = 0

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes, Mapping[str, object] | None]] = []

    def tell(self, spec: TopicSpec, key: bytes, fields: Mapping[str, object] | None) -> None:
        self.records.append((spec.name, key, fields))

    def of(self, topic: str, **wanted: object) -> list[Mapping[str, Any]]:
        found = [fields for name, _, fields in self.records if name == topic and fields is not None]
        return [one for one in found if wanted.items() <= one.items()]


class Scene:
    """One edge and stream ``s``, of kind ``job`` with a policy to try; ``emit`` is what comes out of Kafka.

    Others may be opened beside it, of kind ``log`` as it is declared.
    """

    def __init__(self, policy: BackpressurePolicy, **options: Any) -> None:
        self.payloads = PayloadCodec(_SCHEMAS)
        kinds = KindTable([replace(JOB, backpressure=policy), LOG])
        self.core = EdgeCore(EdgeOptions(**options), self.payloads, topic_version=1, kinds=kinds)
        self.told = self.core.notices = Told()
        self.log = MemoryLog()
        self.core.feed_from(self.log, SharedHistory(self.log.read, 1 << 20))
        self.core.start()
        self.share = WebSocketShare(self.core, None)
        self.next_seqs: Counter[str] = Counter()
        self.lives: Counter[str] = Counter()
        """How often a name was opened again: events of its later streams have it in their ids."""
        self._kinds: dict[str, str] = {}
        self.open("s", "job")

    @property
    def next_seq(self) -> int:
        """Of stream ``s``."""
        return self.next_seqs["s"]

    def open(self, stream: str, kind: str) -> None:
        """Have the index know of a stream."""
        self._kinds[stream] = kind
        offset = self.log.position(0)
        entry = IndexEntry(
            "default", stream, kind, "", {}, 0, 1, opened_us=0, open_offset=offset, mark_seqs=[0],
            mark_offsets=[offset], last_seq=-1, updated_us=0,
        )  # fmt: skip
        self.core.index.put(key_of(stream), entry)

    def reopen(self, stream: str) -> None:
        """End a stream, and have its history be over at once, and its name be opened again."""
        self.emit(end=True, stream=stream)
        self.begin_anew(stream)

    def begin_anew(self, stream: str) -> None:
        """Have the history of a stream that has ended be over, and its name be opened again."""
        self.core.index.remove(key_of(stream))
        self.core.hub.forget(key_of(stream))
        self.next_seqs[stream] = 0
        self.lives[stream] += 1
        self.open(stream, self._kinds[stream])
        self.emit(stream=stream)

    def connect(self, cursor: str | None = None) -> FakeTransport | None:
        """A client that comes, with its cursor if it was here before; None if it has the end."""
        joiner = self.core.joiner
        at = joiner.cursor(cursor, "default", "s") if cursor else None
        joined = joiner.join("default", "s", at, "a client")
        if isinstance(joined, Over):
            return None
        assert isinstance(joined, Joined)
        connection = SseConnection(self.core, joined, LIMITS, head=HEADERS, chunked=False)
        return FakeTransport().serve(connection)

    async def follow(self, *streams: str) -> Peer:
        """A client of a WebSocket that has all there is of some streams."""
        peer = connect(self.share)
        peer.say(*({"type": "subscribe", "stream": stream} for stream in streams))
        following = peer.connection.deliveries
        await until(lambda: sum(one.subscriber.live for one in following) == len(streams))
        return peer

    async def reader(self) -> FakeTransport:
        """A client that has all there is."""
        out = self.connect()
        assert out is not None
        await until(lambda: not self.next_seq or self.next_seq - 1 in seqs_of(out.data))
        return out

    async def stalled(self) -> FakeTransport:
        """A client that had all there was, and takes nothing more."""
        out = await self.reader()
        out.full = True
        self.emit()
        await until(lambda: out.get_write_buffer_size() > 0)
        return out

    def emit(self, count: int = 1, *, size_bytes: int = 4, end: bool = False, stream: str = "s") -> None:
        """Put events into a stream, in one batch."""
        types, key = ["log"] * (count - end) + ["end"] * end, key_of(stream)
        self.core.hub.publish([(key, self._made(stream, type_name, size_bytes)) for type_name in types])

    def emit_unreadable(self) -> None:
        """Put an event into ``s`` whose payload nobody can read."""
        self.core.hub.publish([(KEY, self._made("s", "log", 4, payload=b"\xff\xff\xff"))])

    def _made(self, stream: str, type_name: str, size_bytes: int, *, payload: bytes | None = None) -> Frame:
        fields = {"reason": "completed"} if type_name == "end" else {"line": "x" * size_bytes}
        encoded, schema_id = self.payloads.encode(type_name, fields)
        key, seq = key_of(stream), self.next_seqs[stream]
        if seq == 0:  # the index has the very offset of what opens a stream
            self.open(stream, self._kinds[stream])
        self.next_seqs[stream] += 1
        event = Event(
            event_id=f"e{seq}" + (f".{self.lives[stream]}" if self.lives[stream] else ""),
            tenant="default",
            stream_id=stream,
            seq=seq,
            kind=self._kinds[stream],
            type=type_name,
            time=time.time_ns() // 1_000,
            source="",
            request_id="",
            task_id="",
            upstream_id="",
            traceparent="",
            epoch=0,
            attempt=0,
            payload=encoded if payload is None else payload,
            payload_schema=schema_id,
        )
        self.payloads.subject_of(schema_id)

        def make(offset: int) -> Frame:
            frame = frame_of(event, topic_version=1, partition=0, offset=offset, read_ms=0)
            self.core.index.saw(key, frame, 0)
            return frame

        return self.log.append(key, make)

    def counted(self, name: str, **labels: str) -> float:
        """A counter, over all its labels but those that are given."""
        found = 0.0
        for metric in self.core.metrics.registry.collect():
            for sample in metric.samples:
                if sample.name == f"sluicegate_edge_{name}" and labels.items() <= sample.labels.items():
                    found += sample.value
        return found

    async def slow(self) -> None:
        """Have another edge say that its client cannot follow ``s``: its producer is held back."""
        self.core.slowing.heard([(KEY, "other", Said("other", "job", Counts(1, 1)))])
        await until(lambda: self.core.slowing.of(KEY) is not None)

    async def relieve(self) -> None:
        """Have the other edge take that back."""
        self.core.slowing.heard([(KEY, "other", None)])
        await until(lambda: self.core.slowing.of(KEY) is None)


class Kept:
    """Appends to a list, in place of Kafka."""

    def __init__(self) -> None:
        self._wire = WireCodec(_SCHEMAS)
        self.events: list[Event] = []

    async def append_transaction(self, records: Any) -> Any:
        self.events += [self._wire.decode_event(value) for _, _, value, _ in records]
        return [type("At", (), {"partition": 0, "offset": 0})() for _ in records]


@contextmanager
def publishing(scene: Scene) -> Iterator[tuple[Publisher, Kept]]:
    """The real publisher of an edge, and what it appends."""
    core, kept = scene.core, Kept()
    with ThreadPoolExecutor(1) as threads:
        publisher = Publisher(
            kept,
            WireCodec(_SCHEMAS),
            scene.payloads,
            core.kinds,
            core.waiters,
            core.metrics,
            core.options,
            core.quotas,
            threads,
            topic_prefix="",
            pressure=core.slowing,
        )
        scene.share.publisher = publisher
        yield publisher, kept


def play(scene: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(scene, 30))


async def until(done: Any) -> None:
    while not done():  # noqa: ASYNC110  # nobody tells what a connection writes
        await asyncio.sleep(0.005)


def said(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in re.findall(rb"^data: (.*)$", data, re.MULTILINE)]


def seqs_of(data: bytes) -> list[int]:
    return [one["seq"] for one in said(data) if one["type"] != "gap" and "seq" in one]


def gaps_of(data: bytes) -> list[tuple[int, int, str]]:
    found = [one for one in said(data) if one["type"] == "gap"]
    assert all(one["count"] == one["to_seq"] + 1 - one["from_seq"] for one in found)
    return [(one["from_seq"], one["to_seq"], one["reason"]) for one in found]


def cursor_of(data: bytes) -> str | None:
    found = re.findall(rb"^id: (.*)$", data, re.MULTILINE)
    return found[-1].decode() if found else None
