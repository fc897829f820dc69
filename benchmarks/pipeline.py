"""``ingest`` from Kafka to committed output, exactly once, beside plain consumption of the same records."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import psutil

from benchmarks.load import append, make_streams, read
from connectors.kafka.admin import ensure_topics
from connectors.kafka.options import KafkaOptions
from connectors.registry import Registry
from schemas.payloads import PayloadCodec
from schemas.topics import INPUT, OUTPUT, TOPICS
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from pathlib import Path

    from ops.stack.addresses import Addresses

TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    work: str
    guarantee: str
    records_per_s: int
    cpu_s_per_million: float
    peak_rss_mb: int
    verified: bool

    def row(self) -> dict[str, object]:
        """Return the fields, for JSON or a table."""
        return asdict(self)


def run(where: Addresses, data_dir: Path, streams: int, lines: int) -> list[Result]:
    """Measure once; what was put in is read back, counted and checked for order."""
    kafka = KafkaOptions(where.kafka, f"bench{time.time_ns()}.")
    registry = Registry(where.registry_url)
    registry.register_all()
    ensure_topics(kafka, TOPICS)
    codec = WireCodec(registry)
    records = make_streams(codec, PayloadCodec(registry), streams, lines)
    append(kafka, records)
    work = f"{len(records)} events, {streams} streams, {INPUT.partitions} partitions"
    raw_s, raw = read(kafka, INPUT, len(records), TIMEOUT_S)
    worker = _worker(where, kafka, data_dir)
    try:
        seconds, values = read(kafka, OUTPUT, len(records), TIMEOUT_S)
        cpu_s, rss_mb = _cost(worker.pid)
    finally:
        worker.terminate()
        worker.wait(60)
    per_million = 1_000_000 / len(records)
    return [
        Result(
            "librdkafka consume",
            work,
            "none: no work",
            int(len(raw) / raw_s),
            0.0,
            0,
            len(raw) == len(records),
        ),
        Result(
            "sluicegate ingest",
            work,
            "exactly once",
            int(len(values) / seconds),
            round(cpu_s * per_million, 1),
            rss_mb,
            _in_order(codec, values, streams, lines),
        ),
    ]


def _worker(where: Addresses, kafka: KafkaOptions, data_dir: Path) -> subprocess.Popen[bytes]:
    env = os.environ | {
        "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": where.kafka,
        "SLUICEGATE_KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
        "SLUICEGATE_REGISTRY__URL": where.registry_url,
        "SLUICEGATE_DATA_DIR": str(data_dir),
    }
    command = [sys.executable, "-m", "ops", "worker", "--roles", "ingest"]
    with (data_dir / "worker.log").open("wb") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def _cost(pid: int) -> tuple[float, int]:
    """CPU seconds since the start, and resident MB, of the worker's process tree."""
    parent = psutil.Process(pid)
    tree = [parent, *parent.children(recursive=True)]
    cpu = sum(sum(process.cpu_times()[:2]) for process in tree)
    return cpu, sum(process.memory_info().rss for process in tree) >> 20


def _in_order(codec: WireCodec, values: list[bytes], streams: int, lines: int) -> bool:
    seqs: dict[bytes, list[int]] = defaultdict(list)
    for value in values:
        event = codec.decode_event(value)
        seqs[event.key].append(event.seq)
    return len(seqs) == streams and all(found == list(range(lines + 2)) for found in seqs.values())
