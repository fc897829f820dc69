"""The windows of `benchmarks/windows.py` in stock Faust; run in its own environment, as a worker of Faust.

A table with the window's start in its key: Faust's own windows look at the broker's time where an agent asks
for the current one, and forget theirs after a restart. An update goes out about once a second, as elsewhere.
"""

from __future__ import annotations

import io
import json
import os
import struct
import time

import faust
from fastavro import parse_schema, schemaless_reader

WINDOW_US = 10_000_000
ENV = os.environ
FIGURES = struct.Struct(">qqd")
SCHEMA = parse_schema(json.loads(ENV["BENCH_SCHEMA"]))

app = faust.App(
    ENV["BENCH_GROUP"],
    broker=f"kafka://{ENV['BENCH_KAFKA']}",
    datadir=ENV["BENCH_STATE"],
    store="rocksdb://?driver=rocksdict",
    processing_guarantee=ENV["BENCH_GUARANTEE"],
    broker_commit_interval=1.0,
    consumer_auto_offset_reset="earliest",
    topic_partitions=int(ENV["BENCH_PARTITIONS"]),
    topic_replication_factor=1,
    topic_disable_leader=True,
    web_enabled=False,
)
RAW = {"key_serializer": "raw", "value_serializer": "raw", "key_type": bytes, "value_type": bytes}
source = app.topic(ENV["BENCH_INPUT"], **RAW)
output = app.topic(ENV["BENCH_OUTPUT"], **RAW)
table = app.Table("windows", default=lambda: [0, 0, 0.0], partitions=int(ENV["BENCH_PARTITIONS"]))
changed: dict[tuple[int, str], list] = {}
first = True


@app.agent(source)
async def windows(stream: faust.Stream) -> None:
    """Add each reading to its window."""
    async for value in stream:
        reading = decode(value)
        start, sensor = reading["time"] // WINDOW_US * WINDOW_US, reading["sensor"]
        key = f"{start}:{sensor}"
        count, amount, cost = table[key]
        figures = [count + 1, amount + reading["amount"], cost + reading["cost"]]
        table[key] = figures
        changed[start, sensor] = figures


@app.timer(interval=1.0)
async def update() -> None:
    """Write what changed since the last time."""
    found = list(changed.items())
    changed.clear()
    for (start, sensor), figures in found:
        await output.send(key=struct.pack(">q", start) + sensor.encode(), value=FIGURES.pack(*figures))


def decode(value: bytes) -> dict:
    """Return the reading in Confluent's frame."""
    global first  # noqa: PLW0603 - one process, one stream, one moment
    if first:
        first = False
        print(f"first record at {time.time_ns() // 1_000_000}", flush=True)
    return schemaless_reader(io.BytesIO(value[5:]), SCHEMA, SCHEMA)


if __name__ == "__main__":
    app.main()
