"""From ``POST`` to the client through Kafka and ``ingest``, and which part of the way takes how long."""

from __future__ import annotations

import http.client
import json
import re
import time
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from statistics import fmean
from typing import TYPE_CHECKING, Final, Self

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, TopicPartition

from benchmarks.edge.agents import EdgeWithAgents
from benchmarks.edge.fanout import CONNECT_S
from benchmarks.edge.generator import Clients, NotServed
from benchmarks.edge.results import Served
from benchmarks.edge.writing import KIND, line_now, stream_id
from benchmarks.results import OURS
from schemas.topics import INPUT, OUTPUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.edge.bench import EdgeBench
    from connectors.kafka.options import KafkaOptions

RATES: Final = ((1, 1), (100, 1), (100, 10))
"""Requests a second and events in each."""
WARM: Final = (150, 50, 1)
"""Requests, so many a second, and events in each, that are posted before: a worker's first are slow."""
CLIENTS: Final = 10
POSTERS: Final = 8
"""Connections that requests are posted over, in turn: one waits for its answer before it posts again."""
OPENED_S: Final = 60.0
DRAIN_S: Final = 20.0
READ_S: Final = 20.0
_PUBLISHED: Final = re.compile(rb"@(\d{19}) ")


def measure(bench: EdgeBench) -> Iterator[Served]:
    """Post at each rate, to one stream."""
    with (
        EdgeWithAgents(bench, f"{OURS} edge", "latency") as server,
        Clients(bench.settings, server.port, server.path, CLIENTS, first_seq=0) as clients,
    ):
        clients.ready(CONNECT_S)
        if clients.until(lambda found: found.next_min >= 1, OPENED_S).next_min < 1:
            raise NotServed(f"the stream was not opened in {OPENED_S:.0f} s")
        with _Posters(server.port) as posters:
            posters.post(*WARM)
        posted = 1 + WARM[0] * WARM[2]
        if clients.until(lambda found: found.next_min >= posted, DRAIN_S).next_min != posted:
            raise NotServed(f"what was posted first did not come in {DRAIN_S:.0f} s")
        for requests, events in RATES:
            line, posted = _posted(bench, server, clients, requests, events, posted)
            yield line


def _posted(
    bench: EdgeBench, server: EdgeWithAgents, clients: Clients, requests: int, events: int, before: int
) -> tuple[Served, int]:
    count = max(int(requests * bench.asked.seconds), 5)
    used, wrote = server.usage(), server.writes()
    clients.reset()
    with _Posters(server.port) as posters:
        took_ms = posters.post(count, requests, events)
    total = before + count * events
    found = clients.until(lambda found: found.next_min >= total, DRAIN_S)
    cpu_s, writes = server.usage().cpu_s - used.cpu_s, server.writes() - wrote
    parts = _parts(server.kafka, before, count * events, found.mean_ms)
    rate = requests * events
    line = Served(
        server.name,
        f"latency: POST at {rate} events/s, {events} a request, to {CLIENTS} clients, by Kafka and ingest",
        CLIENTS,
        delivered_per_s=int(found.events / found.seconds),
        writes_per_s=int(writes / found.seconds),
        p50_ms=round(found.p50_ms, 1),
        p99_ms=round(found.p99_ms, 1),
        rss_kb_per_connection=None,
        cpu_s_per_million=round(cpu_s * 1e6 / max(found.events, 1), 1),
        verified=found.contiguous
        and not found.lost
        and found.events == count * events * CLIENTS
        and found.next_min == total,
        more={"mean_ms": round(found.mean_ms, 1), **parts, "answered_ms": round(fmean(took_ms), 1)},
    )
    return line, total


class _Posters:
    """Threads that post, each over a connection that is kept."""

    def __init__(self, port: int) -> None:
        self._free: SimpleQueue[http.client.HTTPConnection] = SimpleQueue()
        for _ in range(POSTERS):
            self._free.put(http.client.HTTPConnection("127.0.0.1", port, timeout=60))
        self._threads = ThreadPoolExecutor(POSTERS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        while not self._free.empty():
            self._free.get().close()

    def post(self, count: int, per_s: int, events: int) -> list[float]:
        """Post so many requests, so many a second; returns how long each answer took, milliseconds."""
        began_s = time.perf_counter()
        answers: list[Future[float]] = []
        for number in range(count):
            while (left_s := began_s + number / per_s - time.perf_counter()) > 0:
                time.sleep(left_s)
            lines = [
                json.dumps({"type": "log", "kind": KIND, "payload": {"line": line_now()}})
                for _ in range(events)
            ]
            answers.append(self._threads.submit(self._post, "\n".join(lines)))
        return [answer.result() for answer in answers]

    def _post(self, body: str) -> float:
        began_s = time.perf_counter()
        connection = self._free.get()
        try:
            connection.request(
                "POST",
                f"/v1/streams/{stream_id(0)}/events",
                body,
                {"content-type": "application/x-ndjson"},
            )
            answer = connection.getresponse()
            said = answer.read()
        finally:
            self._free.put(connection)
        if answer.status != http.HTTPStatus.ACCEPTED:
            raise NotServed(f"a request was answered {answer.status}: {said[:200]!r}")
        return (time.perf_counter() - began_s) * 1_000


def _parts(kafka: KafkaOptions, before: int, count: int, mean_ms: float) -> dict[str, float]:
    """Split the mean: by the broker's clock at both appends, which is this machine's, to a millisecond."""
    appended = _appended(kafka, INPUT.named(kafka.topic_prefix), before, count)
    put_out = _appended(kafka, OUTPUT.named(kafka.topic_prefix), before, count)
    to_input, to_output = fmean(appended), fmean(put_out)
    return {
        "mean_ms_post_to_input": round(to_input, 1),
        "mean_ms_ingest": round(to_output - to_input, 1),
        "mean_ms_output_to_client": round(mean_ms - to_output, 1),
    }


def _appended(kafka: KafkaOptions, topic: str, before: int, count: int) -> list[float]:
    """Return, for each event, the milliseconds from its publication to its append to a topic."""
    consumer = Consumer(
        kafka.client_config()
        | {"group.id": "bench.latency", "isolation.level": "read_committed", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(OUTPUT.partitions)])
    found: list[float] = []
    seen = 0
    deadline = time.monotonic() + READ_S
    try:
        while seen < before + count and time.monotonic() < deadline:
            for message in consumer.consume(10_000, 0.2):
                if message.error() is not None:
                    continue
                seen += 1
                kind, stamp_ms = message.timestamp()
                published = _PUBLISHED.search(message.value())
                if seen > before and published and kind != TIMESTAMP_NOT_AVAILABLE:
                    found.append(stamp_ms - int(published[1]) / 1e6)
    finally:
        consumer.close()
    if len(found) != count:
        raise NotServed(f"{topic} has {len(found)} of {count} events")
    return found
