"""``ingest`` from Kafka to committed output, exactly once, beside plain consumption of the same records."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from benchmarks import raw
from benchmarks.load import append, make_streams, read
from benchmarks.meter import Meter, stop
from benchmarks.results import OURS, Result, with_ratios
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


def run(where: Addresses, data_dir: Path, streams: int, lines: int) -> list[Result]:
    """Measure once; what was put in is read back, counted and checked for order."""
    kafka = KafkaOptions(where.kafka, f"bench{time.time_ns()}.")
    registry = Registry(where.registry_url)
    registry.register_all()
    ensure_topics(kafka, TOPICS)
    codec = WireCodec(registry)
    records = make_streams(codec, PayloadCodec(registry), streams, lines)
    append(kafka, records)
    work = f"ingest: envelopes of {streams} streams, {INPUT.partitions} partitions"
    limit = raw.measure(kafka, INPUT, len(records), work)
    worker = start_ingest(where, kafka, data_dir / "ingest")
    meter = Meter(worker.pid)
    try:
        seconds, values = read(kafka, OUTPUT, len(records), TIMEOUT_S)
        cpu_s, rss_mb = meter.stop()
    finally:
        stop(worker)
    per_million = 1_000_000 / len(records)
    ordered = _in_order(codec, values, streams, lines)
    results = [
        limit,
        Result(
            f"{OURS} ingest",
            work,
            "exactly once",
            len(records),
            int(len(values) / seconds),
            round(cpu_s * per_million, 1),
            rss_mb,
            ordered,
        ),
    ]
    return with_ratios(results)


def start_ingest(where: Addresses, kafka: KafkaOptions, data_dir: Path) -> subprocess.Popen[bytes]:
    """Start a worker of the role on a folder of its own."""
    data_dir.mkdir()
    env = os.environ | {
        "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": where.kafka,
        "SLUICEGATE_KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
        "SLUICEGATE_REGISTRY__URL": where.registry_url,
        "SLUICEGATE_DATA_DIR": str(data_dir),
    }
    command = [sys.executable, "-m", "ops", "worker", "--roles", "ingest"]
    with (data_dir / "worker.log").open("wb") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def _in_order(codec: WireCodec, values: list[bytes], streams: int, lines: int) -> bool:
    seqs: dict[bytes, list[int]] = defaultdict(list)
    for value in values:
        event = codec.decode_event(value)
        seqs[event.key].append(event.seq)
    return len(seqs) == streams and all(found == list(range(lines + 2)) for found in seqs.values())
