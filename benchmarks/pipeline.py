"""``ingest`` from Kafka to committed output, exactly once, beside plain consumption and Kafka Streams."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from benchmarks import raw
from benchmarks.bench import say
from benchmarks.load import append, make_streams, read
from benchmarks.meter import Meter, stop
from benchmarks.peers import kafka_streams
from benchmarks.results import KAFKA_STREAMS, OURS, Result, median, with_ratios
from connectors.kafka.admin import ensure_topics
from ops.stack.errors import StackError
from schemas.catalog import EVENT, subjects
from schemas.payloads import PayloadCodec
from schemas.topics import INDEX, INPUT, OUTPUT, TOPICS
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.bench import Bench
    from connectors.kafka.options import KafkaOptions
    from ops.stack.addresses import Addresses

    _Start = Callable[[Bench, "_Load", Path], list[subprocess.Popen[bytes]]]

TIMEOUT_S: Final = 300.0
_CACHE_BYTES: Final = 50 * 1_048_576


@dataclass(frozen=True)
class _Load:
    """Whole streams on topics of their own, so that each contender has an output that nobody else writes."""

    kafka: KafkaOptions
    codec: WireCodec
    streams: int
    lines: int

    @property
    def count(self) -> int:
        return self.streams * (self.lines + 2)


def run(bench: Bench, streams: int, lines: int) -> list[Result]:
    """Measure; what was put in is read back, counted and checked for order."""
    work = f"ingest: envelopes of {streams} streams, {INPUT.partitions} partitions, {bench.runs()}"
    contenders: list[tuple[str, str, _Start]] = [
        (f"{OURS} ingest", "exactly once", _ours(1)),
        (f"{OURS} ingest, two workers", "exactly once", _ours(2)),
    ]
    if "kafka-streams" in bench.asked.peers:
        contenders.append((KAFKA_STREAMS, "exactly once v2", _streams))
    limits, found = [], defaultdict[str, list[Result]](list)
    for number in range(bench.asked.runs):
        for place, (name, guarantee, start) in enumerate(contenders):
            say(f"ingest: {name}, run {number + 1} of {bench.asked.runs}")
            load = _make_load(bench, streams, lines)
            if len(limits) <= number:
                limits.append(raw.measure(load.kafka, INPUT, load.count, work))
            folder = bench.settings.data_dir / "ingest" / f"{place}-{number}"
            found[name].append(
                _race(
                    bench,
                    load,
                    folder,
                    start,
                    Result(name, work, guarantee, load.count, None, None, None, verified=False),
                )
            )
    return with_ratios([median(limits), *map(median, found.values())])


def start_ingest(where: Addresses, kafka: KafkaOptions, data_dir: Path) -> subprocess.Popen[bytes]:
    """Start a worker of the role on a folder of its own."""
    data_dir.mkdir(parents=True)
    env = os.environ | {
        "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": where.kafka,
        "SLUICEGATE_KAFKA__TOPIC_PREFIX": kafka.topic_prefix,
        "SLUICEGATE_REGISTRY__URL": where.registry_url,
        "SLUICEGATE_DATA_DIR": str(data_dir),
    }
    command = [sys.executable, "-m", "ops", "worker", "--roles", "ingest"]
    with (data_dir / "worker.log").open("wb") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def _make_load(bench: Bench, streams: int, lines: int) -> _Load:
    kafka, registry = bench.kafka(), bench.registry()
    registry.register_all()
    ensure_topics(kafka, TOPICS)
    codec = WireCodec(registry)
    append(kafka, make_streams(codec, PayloadCodec(registry), streams, lines))
    return _Load(kafka, codec, streams, lines)


def _race(
    bench: Bench,
    load: _Load,
    folder: Path,
    start: _Start,
    result: Result,
) -> Result:
    try:
        processes = start(bench, load, folder)
    except (StackError, OSError, subprocess.SubprocessError) as error:
        return replace(result, note=f"not to be had: {' '.join(str(error).split())[-160:]}")
    meters = [Meter(process.pid) for process in processes]
    try:
        seconds, values = read(load.kafka, OUTPUT, load.count, TIMEOUT_S)
        taken = [meter.stop() for meter in meters]
    finally:
        for process in processes:
            stop(process)
    whole = len(values) == load.count and _in_order(load, values)
    return replace(
        result,
        records_per_s=int(len(values) / seconds) if seconds else None,
        cpu_s_per_million=round(sum(cpu_s for cpu_s, _ in taken) * 1_000_000 / load.count, 1),
        peak_rss_mb=sum(rss_mb for _, rss_mb in taken),
        verified=whole,
        note="" if whole else f"{len(values)} of {load.count} came out, or not in their order",
    )


def _ours(workers: int) -> _Start:
    def start(bench: Bench, load: _Load, folder: Path) -> list[subprocess.Popen[bytes]]:
        return [start_ingest(bench.where, load.kafka, folder / str(number)) for number in range(workers)]

    return start


def _streams(bench: Bench, load: _Load, folder: Path) -> list[subprocess.Popen[bytes]]:
    folder.mkdir(parents=True)
    prefix = load.kafka.topic_prefix
    env = os.environ | {
        "BENCH_KAFKA": bench.where.kafka,
        "BENCH_INPUT": INPUT.named(prefix),
        "BENCH_OUTPUT": OUTPUT.named(prefix),
        "BENCH_INDEX": INDEX.named(prefix),
        "BENCH_GROUP": f"{prefix}ordering",
        "BENCH_STATE": str(folder / "state"),
        "BENCH_SCHEMA": subjects()[EVENT],
        "BENCH_CACHE_BYTES": str(_CACHE_BYTES),
        "BENCH_COMMIT_MS": "100",  # as ours; the clock runs from the first committed output
    }
    command = kafka_streams.command(bench.settings, kafka_streams.ORDERING)
    with (folder / "log").open("wb") as log:
        return [subprocess.Popen(command, env=env, stdout=log, stderr=log)]


def _in_order(load: _Load, values: Sequence[bytes]) -> bool:
    seqs: dict[bytes, list[int]] = defaultdict(list)
    for value in values:
        event = load.codec.decode_event(value)
        seqs[event.key].append(event.seq)
    return len(seqs) == load.streams and all(found == list(range(load.lines + 2)) for found in seqs.values())
