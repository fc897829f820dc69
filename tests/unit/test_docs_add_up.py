"""The batch agent of the data engineer's page, tested without Kafka as the page says one can."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

from connectors.kafka.stream import Batch
from pipelines.tools import Tools
from schemas.catalog import LocalSchemas
from schemas.envelope import Event
from schemas.errors import BadMagic
from schemas.kinds import BUILTIN_KINDS
from schemas.payloads import PayloadCodec
from schemas.record import Record
from schemas.topics import DEAD_LETTERS
from schemas.wire import WireCodec
from state.effects import PartitionScope
from state.memory import MemoryBackend

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "examples" / "stream_sizes.py"))
TOOLS = Tools(WireCodec(LocalSchemas()), PayloadCodec(LocalSchemas()), BUILTIN_KINDS)


def event(type_: str, payload: bytes) -> Event:
    return Event("id", "default", "one", 0, "log", type_, 0, "", "", "", "", "", 0, 0, payload, 1)


def test_a_batch_is_added_to_what_the_state_holds():
    scope = PartitionScope("stream_sizes", 2, MemoryBackend(), EXAMPLE["CHANGELOG"], TOOLS.dead_letters())
    scope.state.put(b"default/one", EXAMPLE["TOTALS"].pack(10, 1_000))
    record = Record("streams.output.v1", 2, 7, 0, b"default/one", b"x")
    items = [event("log", b"abc"), event("tick", b""), BadMagic(b"x"), event("end", b"de")]

    EXAMPLE["add_up"](Batch([(record, item) for item in items], scope, "streams.output.v1", 2, 11))

    letter, total = scope.take_appends()
    assert letter.topic == DEAD_LETTERS
    assert (total.topic, total.key, total.partition) == (EXAMPLE["SIZES"], b"default/one", 2)
    assert json.loads(total.value) == {"stream": "default/one", "events": 12, "bytes": 1_005}
    assert EXAMPLE["TOTALS"].unpack(scope.state.get(b"default/one")) == (12, 1_005)
    assert scope.counts == {"counted": 2, "ignored": 1, "dead_letter": 1}
