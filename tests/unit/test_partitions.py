"""Where a partition begins: what Kafka says, what an agent says, and whose fault it is if that cannot be."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from connectors.kafka.chunk import SourcePartition
from connectors.kafka.options import KafkaOptions
from connectors.kafka.positions import Committed
from pipelines.partitions import Partitions, Source
from schemas.topics import RECORDS
from state.errors import PositionLost

WHERE = SourcePartition(RECORDS.name, 2)
NOT_CANCELLED: Any = SimpleNamespace(is_set=lambda: False)


def begin(tmp_path, *, committed: int | None, says: int | None = None) -> int:
    """Open a partition whose log holds offsets 3 to 8; the agent ``says`` where it stands, if it does."""
    reader: Any = SimpleNamespace(
        committed=lambda *_: None if committed is None else Committed(committed, None),
        ends=lambda *_: (3, 9),
        topic_id=lambda _topic: "id",
    )
    hook = None if says is None else lambda *_: says
    source = Source(RECORDS, lambda _: [], "archive_streams", on_assigned=hook)
    parts: Any = dict.fromkeys(("unit", "ticker", "letters", "state", "late"))
    partitions = Partitions(
        kafka=KafkaOptions(""), sources={RECORDS.name: source}, reader=reader, state_dir=tmp_path, **parts
    )
    return partitions.open(WHERE, NOT_CANCELLED)


def test_a_partition_begins_at_the_committed_offset_or_where_its_log_does(tmp_path):
    assert begin(tmp_path, committed=5) == 5
    assert begin(tmp_path, committed=9) == 9
    assert begin(tmp_path, committed=None) == 3


def test_an_agent_that_keeps_its_own_position_is_asked(tmp_path):
    assert begin(tmp_path, committed=7, says=4) == 4


def test_a_position_outside_of_the_log_is_called_by_whose_it_is(tmp_path):
    with pytest.raises(PositionLost, match=r"v1\[2\]: the group's committed offset 1 is outside of the log"):
        begin(tmp_path, committed=1)
    with pytest.raises(PositionLost, match="the offset that archive_streams keeps outside of Kafka, 1 is"):
        begin(tmp_path, committed=7, says=1)


def test_a_partition_that_is_not_ready_yet_is_behind_since_it_is_ours(tmp_path):
    seen = []

    def ends(*_):  # of the input: asked after the restore
        seen.append(dict(partitions.opening))
        return (3, 9)

    reader: Any = SimpleNamespace(committed=lambda *_: Committed(5, None), ends=ends)
    parts: Any = dict.fromkeys(("letters", "state", "late"))
    parts |= {name: SimpleNamespace() for name in ("unit", "ticker")}
    source = Source(RECORDS, lambda _: [], "archive_streams")
    partitions = Partitions(
        kafka=KafkaOptions(""), sources={RECORDS.name: source}, reader=reader, state_dir=tmp_path, **parts
    )
    before_us = time.time_ns() // 1_000
    for _ in range(2):  # the second opening is the first's, tried again
        partitions.open(WHERE, NOT_CANCELLED)
    (first, second) = (opening[WHERE] for opening in seen)
    assert first == second, "it is not ours since later than it was"
    offset, since_us = first
    assert offset == 5
    assert before_us <= since_us <= time.time_ns() // 1_000
    parts["unit"].add_scope = parts["unit"].begin_handbacks = lambda *_: None
    partitions.ready(WHERE)
    assert partitions.opening == {}
