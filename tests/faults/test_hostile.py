"""Records made to harm: refused before they are decoded, in bounded memory, while their neighbours flow."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import httpx2
import orjson
import pytest

from schemas.catalog import EVENT
from schemas.topics import DEAD_LETTERS
from schemas.wire import WireCodec
from tests.faults.role_plants import planted
from tests.support.read_topic import read_committed
from tests.support.worker_process import WorkerProcess

if TYPE_CHECKING:
    from connectors.registry import Registry
    from tests.faults.streams import RecordedStreams

pytestmark = [pytest.mark.slow_fault, pytest.mark.timeout(300)]

MEMORY_MB = 150
HUGE = b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f"  # a length, or a block's count, of 2**62 - 1


def evil(*fields: Any) -> dict[str, Any]:
    named = [{"name": f"f{place}", "type": field} for place, field in enumerate(fields)]
    return {"type": "record", "name": "sluicegate.Event", "fields": named}


def deep(levels: int) -> Any:
    inner: Any = "int"
    for level in range(levels):
        inner = {"type": "record", "name": f"n{level}", "fields": [{"name": "a", "type": inner}]}
    return inner


NOTHINGS = {"type": "array", "items": "null"}
HOSTILE = {
    "holds itself": (evil({"type": "array", "items": "sluicegate.Event"}), b"\x02" * 100_000),
    "items of no width": (evil(NOTHINGS), HUGE),
    "deep": (evil(deep(100)), b"\x02"),
    "a map of many": (
        evil({"type": "map", "values": {"type": "array", "items": "null"}}),
        b"\x02\x02a" + HUGE,
    ),
    "a block of many": (evil({"type": "array", "items": "long"}), HUGE),
}


def registered(registry_url: str, subject: str, schema: Any) -> int:
    """Register as anybody may: the registry does not judge."""
    answer = httpx2.post(
        f"{registry_url}/subjects/{subject}/versions",
        content=orjson.dumps({"schema": json.dumps(schema)}),
        headers={"Content-Type": "application/vnd.schemaregistry.v1+json"},
        timeout=20,
    )
    assert answer.status_code == 200, answer.text
    return int(answer.json()["id"])


def hostile_records(registry: Registry, registry_url: str, prefix: str) -> list[bytes]:
    """One record of each kind, and others that lie within our own schema."""
    records = []
    for name, (schema, body) in HOSTILE.items():
        subject = f"{prefix}{name.replace(' ', '-')}"
        records.append(b"\x00" + registered(registry_url, subject, schema).to_bytes(4, "big") + body)
    records.append(b"\x00" + registry.id_of(EVENT).to_bytes(4, "big") + HUGE)  # an event id so long
    unknown = range(2_000_000_000, 2_000_000_100)
    records += [b"\x00" + schema_id.to_bytes(4, "big") + b"\x00" for schema_id in unknown]
    records += [b"", b"\x00", b"\x07" * 1_000]
    return records


def resident_mb(worker: WorkerProcess) -> float:
    return sum(process.memory_info().rss for process in worker.tree()) / 2**20


@pytest.fixture
def streams(topics, kafka_options, registry, recorded) -> RecordedStreams:
    topics()
    return recorded(kafka_options, registry)


def test_hostile_records_become_dead_letters_and_their_neighbours_flow(stack, streams, registry, tmp_path):
    worker = WorkerProcess(stack, streams.kafka, tmp_path, roles="ingest")
    try:
        worker.wait_ready(4)
        streams.open()
        streams.lines(20)
        streams.check()
        before_mb = resident_mb(worker)
        records = hostile_records(registry, stack.registry_url, streams.kafka.topic_prefix)
        streams.publish_unreadable(records)
        peak_mb = before_mb
        deadline = time.monotonic() + 60
        while len(read_committed(streams.kafka, DEAD_LETTERS, len(records), deadline_s=1)) < len(records):
            peak_mb = max(peak_mb, resident_mb(worker))
            assert time.monotonic() < deadline, worker.log.read_text()[-3_000:]
        assert peak_mb - before_mb < MEMORY_MB
        streams.lines(20)
        streams.end()
        streams.check()
        codec = WireCodec(registry)
        letters = read_committed(streams.kafka, DEAD_LETTERS, len(records))
        found = [codec.decode(message.value(), DEAD_LETTERS.subject) for message in letters]
        assert sorted(letter["value"] for letter in found) == sorted(records)
        assert worker.stop() == 0
    finally:
        worker.kill()


def test_an_ingest_that_passes_over_what_it_cannot_read_is_found(stack, streams, registry, tmp_path):
    env = planted(tmp_path, "loses_dead_letters")
    worker = WorkerProcess(stack, streams.kafka, tmp_path, roles="ingest", **env)
    try:
        streams.open()
        streams.publish_unreadable(hostile_records(registry, stack.registry_url, streams.kafka.topic_prefix))
        streams.end()
        assert {violation.invariant for violation in streams.violations()} == {"I1", "I6"}
    finally:
        worker.kill()
