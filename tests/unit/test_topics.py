"""The table of topics, and the partitioner that every client must agree on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.changelogs import Retention
from schemas import topics as module
from schemas.catalog import subjects
from schemas.cursor import Cursor
from schemas.topics import (
    DAY_MS,
    DEAD_LETTERS,
    INDEX,
    INGEST_STREAMS_CHANGELOG,
    INPUT,
    LLM_CONTENTS,
    LLM_RAW,
    OUTPUT,
    RECORDS,
    REJECTS,
    TOPICS,
    partition_of,
    topic_version,
)
from schemas.wire import VALUE_BYTES_MAX


@pytest.mark.parametrize(
    ("key", "java"),  # org.apache.kafka.common.utils.UtilsTest.testMurmur2
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_keys_hash_as_in_kafkas_java_client(key: bytes, java: int) -> None:
    assert module._murmur2(key) == java & 0xFFFF_FFFF


def test_partitions_of_many_keys_are_even() -> None:
    counts = [0] * 4
    for number in range(10_000):
        counts[partition_of(b"default/stream-%d" % number, 4)] += 1
    assert min(counts) > 2_300


def test_every_name_is_in_the_table_once_and_has_a_version() -> None:
    names = [spec.name for spec in TOPICS]
    assert len(set(names)) == len(names) == 34
    assert {topic_version(name) for name in names} == {1}


def test_a_prefix_stands_before_the_name_and_leaves_the_version() -> None:
    assert OUTPUT.named("team-a.") == "team-a.streams.output.v1"
    assert topic_version(OUTPUT.named("team.v9.")) == 1


@pytest.mark.parametrize("name", ["", "streams.output", "streams.output.v", "streams.output.v0", "a.v1.b"])
def test_a_name_without_a_version_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="does not end in"):
        topic_version(name)


def test_a_topics_version_fits_a_cursor() -> None:
    assert topic_version("x.v9999") < 2**16
    Cursor(9_999, 0, 0, 0).encode("t", "s")


def test_every_subject_of_the_table_has_a_schema() -> None:
    assert {spec.subject for spec in TOPICS} - {""} <= set(subjects())


def test_outputs_keep_their_inputs_partition_number() -> None:
    same = (INPUT, OUTPUT, INDEX, RECORDS, REJECTS, DEAD_LETTERS, INGEST_STREAMS_CHANGELOG)
    assert {spec.partitions for spec in same} == {INPUT.partitions}


def test_the_output_is_never_compacted_and_outlives_the_input() -> None:
    assert OUTPUT.cleanup == "delete"
    assert OUTPUT.retention_ms > INPUT.retention_ms


def test_compacted_topics_keep_tombstones_longer_than_a_worker_is_down() -> None:
    for spec in TOPICS:
        compacted = "compact" in spec.cleanup
        assert (spec.retention_ms == -1) == (spec.cleanup == "compact")
        assert ("delete.retention.ms" in spec.config()) == compacted
        if compacted:
            assert int(spec.config()["delete.retention.ms"]) >= 7 * DAY_MS


def test_a_changelog_may_keep_tombstones_for_less_than_a_week_where_its_row_says_so() -> None:
    short = replace(INDEX, tombstones_ms=300_000)
    assert short.config()["delete.retention.ms"] == "300000"
    assert Retention.declared(short).tombstones_ms == 300_000, "an older disk is rebuilt"


def test_a_dead_letter_holds_the_largest_record_that_a_broker_lets_in() -> None:
    key_bytes = 64 + 1 + 128
    assert INPUT.max_message_bytes >= VALUE_BYTES_MAX + key_bytes + 200
    assert DEAD_LETTERS.max_message_bytes >= INPUT.max_message_bytes + 32_768


def test_the_broker_stamps_what_the_watermark_trusts() -> None:
    assert INPUT.config()["message.timestamp.type"] == "LogAppendTime"
    assert OUTPUT.config()["message.timestamp.type"] == "LogAppendTime"


def test_what_people_wrote_is_gone_soon_after_its_time():
    """A broker deletes whole segments, and one may be a week long by its default."""
    for spec in (LLM_CONTENTS, LLM_RAW):
        assert spec.cleanup == "delete"
        assert int(spec.config()["segment.ms"]) <= min(spec.retention_ms, DAY_MS)
    assert "segment.ms" not in OUTPUT.config()


def test_a_topic_s_segments_are_the_broker_s_unless_it_says_how_large():
    assert "segment.bytes" not in OUTPUT.config()
    assert replace(OUTPUT, segment_bytes=1 << 20).config()["segment.bytes"] == "1048576"
