"""From a publication to its committed output through ``ingest``, at a steady rate, by one clock.

A publication's time is taken before it is handed to the producer, its arrival's after a consumer of
committed records has it: the producer's linger, both hops, ``ingest`` and its commit are all inside.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.bench import say
from benchmarks.load import make_streams
from benchmarks.meter import PERIOD_S, Meter, stop
from benchmarks.pipeline import start_ingest
from benchmarks.results import OURS, Latency, typical
from connectors.kafka.admin import ensure_topics
from schemas.payloads import PayloadCodec
from schemas.topics import INPUT, OUTPUT, TOPICS
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from benchmarks.bench import Bench
    from connectors.kafka.options import KafkaOptions

STREAMS: Final = 50
EVENTS_PER_S: Final = 1_000
WARM_S: Final = 60
"""Published at the same rate before, and not counted: a broker that has just started compiles itself, and is
three times as slow meanwhile."""
SECONDS: Final = 20
START_S: Final = 60.0
LAST_S: Final = 30.0


def run(bench: Bench) -> Latency:
    """Measure as often as was asked for, each time with a worker and topics of its own."""
    runs = []
    for number in range(bench.asked.runs):
        say(f"latency: run {number + 1} of {bench.asked.runs}")
        runs.append(_measure(bench, number))
    return typical(runs)


def _measure(bench: Bench, number: int) -> Latency:
    """Publish for a while to streams that are open already; every event must come out, in order."""
    kafka, registry = bench.kafka(), bench.registry()
    registry.register_all()
    ensure_topics(kafka, TOPICS)
    codec = WireCodec(registry)
    warm = EVENTS_PER_S * WARM_S
    lines = (warm + EVENTS_PER_S * SECONDS) // STREAMS
    records = make_streams(codec, PayloadCodec(registry), STREAMS, lines)
    worker = start_ingest(bench.where, kafka, bench.settings.data_dir / "latency" / str(number))
    arrivals = _Arrivals(kafka)
    try:
        producer = Producer(kafka.client_config() | {"partitioner": "murmur2_random", "linger.ms": 0})
        topic = INPUT.named(kafka.topic_prefix)
        for key, value in records[:STREAMS]:  # each stream's ``open`` warms what there is to warm
            producer.produce(topic, value, key)
        producer.flush(START_S)
        arrivals.wait_for(STREAMS, START_S)
        _publish(producer, topic, records[STREAMS : STREAMS + warm])
        arrivals.wait_for(STREAMS + warm, LAST_S)
        meter = Meter(worker.pid)
        time.sleep(2 * PERIOD_S)  # a sample of what was before
        started_s, began_s = meter.cpu_s, time.monotonic()
        sent = _publish(producer, topic, records[STREAMS + warm : -STREAMS], 1 + warm // STREAMS)
        took_s = time.monotonic() - began_s
        arrivals.wait_for(STREAMS + warm + len(sent), LAST_S)
        cpu_s, rss_mb = meter.stop()
    finally:
        found = arrivals.stop()
        stop(worker)
    return replace(
        _result(codec, sent, found, bench.runs()),
        records_per_s=round(len(sent) / took_s),
        cpu_s_per_million=round((cpu_s - started_s) * 1_000_000 / len(sent), 1),
        peak_rss_mb=rss_mb,
    )


def _publish(
    producer: Producer, topic: str, records: list[tuple[bytes, bytes]], first_seq: int = 1
) -> dict[tuple[bytes, int], int]:
    """Publish at the rate; returns when each was, by key and seq."""
    sent: dict[tuple[bytes, int], int] = {}
    began_ns = time.time_ns()
    for number, (key, value) in enumerate(records):
        due_ns = began_ns + number * 1_000_000_000 // EVENTS_PER_S
        while (left_ns := due_ns - time.time_ns()) > 0:
            time.sleep(left_ns / 1e9)
        sent[key, first_seq + number // STREAMS] = time.time_ns()
        producer.produce(topic, value, key)
        producer.poll(0)
    producer.flush(LAST_S)
    return sent


class _Arrivals:
    """Reads committed output on a thread of its own, and notes when each record came."""

    def __init__(self, kafka: KafkaOptions) -> None:
        self._consumer = Consumer(
            kafka.client_config()
            | {"group.id": "bench.latency", "isolation.level": "read_committed", "enable.auto.commit": False}
        )
        name = OUTPUT.named(kafka.topic_prefix)
        self._consumer.assign([TopicPartition(name, partition, 0) for partition in range(OUTPUT.partitions)])
        self._found: list[tuple[int, bytes]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                self._found.append((time.time_ns(), message.value()))
        self._consumer.close()

    def wait_for(self, count: int, timeout_s: float) -> None:
        """Wait until so many came, or no longer."""
        deadline = time.monotonic() + timeout_s
        while len(self._found) < count and time.monotonic() < deadline:
            time.sleep(0.05)

    def stop(self) -> list[tuple[int, bytes]]:
        """Stop; returns time and value of each, in the order of arrival."""
        self._stop.set()
        self._thread.join()
        return self._found


def _result(
    codec: WireCodec, sent: dict[tuple[bytes, int], int], found: list[tuple[int, bytes]], runs: str
) -> Latency:
    seqs: dict[bytes, int] = {}
    took_ns = []
    in_order = True
    for came_ns, value in found:
        event = codec.decode_event(value)
        in_order &= event.seq == seqs.get(event.key, -1) + 1
        seqs[event.key] = event.seq
        if at_ns := sent.get((event.key, event.seq)):
            took_ns.append(came_ns - at_ns)
    took_ns.sort()
    complete = len(took_ns) == len(sent)
    return Latency(
        f"{OURS} ingest",
        f"latency: {EVENTS_PER_S} events/s for {SECONDS} s, publish to committed output, {runs}",
        "exactly once",
        records_per_s=None,
        cpu_s_per_million=None,
        peak_rss_mb=None,
        p50_ms=_percentile(took_ns, 0.5),
        p99_ms=_percentile(took_ns, 0.99),
        verified=in_order and complete,
    )


def _percentile(sorted_ns: list[int], share: float) -> float:
    return round(sorted_ns[int(len(sorted_ns) * share)] / 1e6, 1) if sorted_ns else float("nan")
