"""The windows of `benchmarks/windows.py` in Quix Streams' own windows; run in its own environment.

It has no cache: each reading is an update on its output, and on its changelog once a commit.
"""

from __future__ import annotations

import io
import json
import os
import struct
import time

from fastavro import parse_schema, schemaless_reader
from quixstreams import Application
from quixstreams.models.serializers import Deserializer, Serializer

ENV = os.environ
FIGURES = struct.Struct(">qqd")


class Readings(Deserializer):
    """Confluent's frame, by fastavro."""

    def __init__(self) -> None:
        super().__init__()
        self._schema = parse_schema(json.loads(ENV["BENCH_SCHEMA"]))
        self._first = True

    def __call__(self, value: bytes, ctx: object) -> dict:  # noqa: ARG002 - Quix names it
        """Return the reading."""
        if self._first:
            self._first = False
            print(f"first record at {time.time_ns() // 1_000_000}", flush=True)
        return schemaless_reader(io.BytesIO(value[5:]), self._schema, self._schema)


class Figures(Serializer):
    """The figures of a pair of key and figures."""

    def __call__(self, value: tuple[bytes, list], ctx: object) -> bytes:  # noqa: ARG002 - Quix names it
        """Return their bytes."""
        return FIGURES.pack(*value[1])


def main() -> None:
    """Run until a signal."""
    app = Application(
        ENV["BENCH_KAFKA"],
        consumer_group=ENV["BENCH_GROUP"],
        auto_offset_reset="earliest",
        commit_interval=1.0,
        processing_guarantee="exactly-once",
        state_dir=ENV["BENCH_STATE"],
        loglevel="WARNING",
    )
    source = app.topic(
        ENV["BENCH_INPUT"],
        key_deserializer="str",
        value_deserializer=Readings(),
        timestamp_extractor=lambda value, _headers, _timestamp, _type: value["time"] // 1_000,
    )
    output = app.topic(ENV["BENCH_OUTPUT"], key_serializer="bytes", value_serializer=Figures())
    frame = app.dataframe(source)
    frame = frame.tumbling_window(10_000, grace_ms=60_000).reduce(add, start).current()
    frame = frame.apply(outgoing, metadata=True)
    frame = frame.to_topic(output, key=lambda pair: pair[0])
    app.run()


def start(reading: dict) -> list:
    """Begin a window."""
    return [1, reading["amount"], reading["cost"]]


def add(figures: list, reading: dict) -> list:
    """Add a reading to its window."""
    return [figures[0] + 1, figures[1] + reading["amount"], figures[2] + reading["cost"]]


def outgoing(window: dict, sensor: str, _timestamp: int, _headers: object) -> tuple[bytes, list]:
    """Return the key as the others write it, and the figures."""
    return struct.pack(">q", window["start"] * 1_000) + sensor.encode(), window["value"]


if __name__ == "__main__":
    main()
