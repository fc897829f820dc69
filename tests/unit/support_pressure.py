"""An edge over a log in memory, a stream whose kind a test chooses, and clients that read no more."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edge.core import EdgeCore
from edge.frame import frame_of
from edge.history import SharedHistory
from edge.index import IndexEntry
from edge.join import Joined, Over
from edge.options import EdgeOptions
from edge.recorded import MemoryLog
from edge.sse import HEADERS, SseConnection
from schemas.catalog import LocalSchemas
from schemas.envelope import Event
from schemas.kinds import JOB, BackpressurePolicy, KindTable
from schemas.payloads import PayloadCodec
from tests.support.fake_transport import LIMITS, FakeTransport

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from edge.frame import Frame
    from schemas.topics import TopicSpec

KEY = b"default/s"
STREAMS = ("s", "t")
BOUND = 10
MANY_BYTES = 1 << 30
_SCHEMAS = LocalSchemas()


def backpressure(policy: str, **others: Any) -> BackpressurePolicy:
    usual = BackpressurePolicy(policy, BOUND, MANY_BYTES, 1.0, 60_000, "drop_old")  # type: ignore[arg-type]
    return replace(usual, **others)


def key_of(stream: str) -> bytes:
    return f"default/{stream}".encode()


def _known(stream: str) -> IndexEntry:
    """What the index has of a stream from which nothing was read yet."""
    return IndexEntry(
        "default",
        stream,
        "job",
        "",
        {},
        0,
        1,
        opened_us=0,
        open_offset=0,
        mark_seqs=[0],
        mark_offsets=[0],
        last_seq=-1,
        updated_us=0,
    )


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
    """One edge and streams ``s`` and ``t``; ``emit`` is what comes out of Kafka."""

    def __init__(self, policy: BackpressurePolicy, **options: Any) -> None:
        self.payloads = PayloadCodec(_SCHEMAS)
        kind = replace(JOB, backpressure=policy)
        self.core = EdgeCore(EdgeOptions(**options), self.payloads, topic_version=1, kinds=KindTable([kind]))
        self.told = self.core.notices = Told()
        self.log = MemoryLog()
        self.core.feed_from(self.log, SharedHistory(self.log.read, 1 << 20))
        for stream in STREAMS:
            self.core.index.put(key_of(stream), _known(stream))
        self.core.start()
        self.next_seqs = dict.fromkeys(STREAMS, 0)

    @property
    def next_seq(self) -> int:
        """How many events stream ``s`` has."""
        return self.next_seqs["s"]

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
        types = ["log"] * (count - end) + ["end"] * end
        key = key_of(stream)
        self.core.hub.publish([(key, self._made(stream, type_name, size_bytes)) for type_name in types])

    def _made(self, stream: str, type_name: str, size_bytes: int) -> Frame:
        fields = {"reason": "completed"} if type_name == "end" else {"line": "x" * size_bytes}
        payload, schema_id = self.payloads.encode(type_name, fields)
        seq = self.next_seqs[stream]
        self.next_seqs[stream] += 1
        event = Event(
            event_id=f"e{seq}",
            tenant="default",
            stream_id=stream,
            seq=seq,
            kind="job",
            type=type_name,
            time=time.time_ns() // 1_000,
            source="",
            request_id="",
            task_id="",
            upstream_id="",
            traceparent="",
            epoch=0,
            attempt=0,
            payload=payload,
            payload_schema=schema_id,
        )
        self.payloads.subject_of(schema_id)

        def make(offset: int) -> Frame:
            frame = frame_of(event, topic_version=1, partition=0, offset=offset, read_ms=0)
            self.core.index.saw(key_of(stream), frame, 0)
            return frame

        return self.log.append(key_of(stream), make)

    def counted(self, name: str, **labels: str) -> float:
        """A counter, over all labels that are not given."""
        found = 0.0
        for metric in self.core.metrics.registry.collect():
            for sample in metric.samples:
                if sample.name == f"sluicegate_edge_{name}" and labels.items() <= sample.labels.items():
                    found += sample.value
        return found


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
