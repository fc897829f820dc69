"""The limit: plain consumption by librdkafka, nothing decoded or written; a process of its own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from confluent_kafka import Consumer, TopicPartition

from benchmarks.load import QUICK
from benchmarks.results import RAW, RAW_DEFAULTS, Result

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions
    from schemas.topics import TopicSpec

TIMEOUT_S: Final = 300.0


def measure(kafka: KafkaOptions, spec: TopicSpec, count: int, work: str, *, quick: bool = True) -> Result:
    """Consume a topic once, from first record to last; ``quick``: by settings for it, not by defaults."""
    env = os.environ | {
        "BENCH_KAFKA": kafka.bootstrap_servers,
        "BENCH_INPUT": spec.named(kafka.topic_prefix),
        "BENCH_PARTITIONS": str(spec.partitions),
        "BENCH_COUNT": str(count),
        "BENCH_QUICK": "1" if quick else "",
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.raw"],
        env=env, timeout=2 * TIMEOUT_S, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    return Result(
        RAW if quick else RAW_DEFAULTS,
        work,
        "none: no work",
        count,
        int(found["count"] / found["seconds"]),
        round(found["cpu_s"] * 1_000_000 / count, 1),
        found["rss_mb"],
        found["count"] == count,
    )


def consume(config: dict[str, object], topic: str, partitions: int, wanted: int) -> tuple[int, float]:
    """Return how many records came, and the seconds between the first and the last of them."""
    consumer = Consumer(config | {"group.id": "bench.raw", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    count, first, last = 0, 0.0, 0.0
    deadline = time.perf_counter() + TIMEOUT_S
    while count < wanted and time.perf_counter() < deadline:
        if not count:
            messages = consumer.consume(1, 0.1)  # the clock starts with the first, not with the first 10,000
            first = time.perf_counter()
        else:
            messages = consumer.consume(10_000, 0.1)
        count += sum(message.error() is None for message in messages)
        if messages:
            last = time.perf_counter()
    consumer.close()
    return count, last - first


def main() -> None:
    """Consume what the environment names, and print what was found."""
    config: dict[str, object] = {"bootstrap.servers": os.environ["BENCH_KAFKA"]}
    config |= QUICK if os.environ["BENCH_QUICK"] else {}
    topic, partitions = os.environ["BENCH_INPUT"], int(os.environ["BENCH_PARTITIONS"])
    count, seconds = consume(config, topic, partitions, int(os.environ["BENCH_COUNT"]))
    used = resource.getrusage(resource.RUSAGE_SELF)
    # Linux counts in KiB, macOS in bytes.
    rss_mb = used.ru_maxrss >> (20 if sys.platform == "darwin" else 10)
    figures = {"count": count, "seconds": seconds, "cpu_s": used.ru_utime + used.ru_stime, "rss_mb": rss_mb}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
