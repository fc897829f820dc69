"""The archive's sink on a real PostgreSQL: what it stores, what it leaves alone, what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from connectors.postgres.claim import Batch, Refusal
from connectors.postgres.errors import FenceLost, SinkRefused, SinkUnfit
from connectors.postgres.tables import STREAMS, USAGE_WINDOWS
from tests.integration.postgres_case import TOPIC, TOPIC_ID, Database, stream, window

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def database(stack) -> Iterator[Database]:
    case = Database(stack.postgres_dsn)
    yield case
    case.close()


def test_first_claim_starts_where_the_log_starts_and_later_ones_where_the_archive_stopped(database):
    sink = database.sink()
    first = sink.claim(TOPIC, TOPIC_ID, 0, first=7)
    assert (first.owner, first.next) == (1, 7)

    sink.write(first, Batch(next=12, streams=[stream()]))
    second = database.sink().claim(TOPIC, TOPIC_ID, 0, first=0)
    assert (second.owner, second.next) == (2, 12)


def test_partitions_sinks_and_recreated_topics_have_positions_of_their_own(database):
    sink = database.sink()
    sink.write(sink.claim(TOPIC, TOPIC_ID, 0, first=0), Batch(next=5))
    assert sink.claim(TOPIC, TOPIC_ID, 1, first=0).next == 0
    assert sink.claim(TOPIC, "recreated", 0, first=0).next == 0
    assert database.sink(sink="other").claim(TOPIC, TOPIC_ID, 0, first=0).next == 0
    assert sink.claim(TOPIC, TOPIC_ID, 0, first=0).next == 5


def test_a_batch_is_stored_field_by_field_as_it_was_given(database):
    sink = database.sink()
    job = stream(
        events_by_type={"log": 3, "end": 1},
        upstream_ids=["a", 'quote " comma , brace }', "NULL", ""],
        cost_nanos=2**63 - 1,
        last_seq=2**53 + 1,
        attempts=-(2**63),
        task_id="zoë ☃ 𝄞 \\ ' \" \n\t",
    )
    usage = window(final=True)
    claim = sink.write(
        sink.claim(TOPIC, TOPIC_ID, 0, first=0), Batch(next=2, streams=[job], usage_windows=[usage])
    )
    assert claim.next == 2
    assert list(database.given(STREAMS).values()) == [job]
    assert list(database.given(USAGE_WINDOWS).values()) == [usage]


def test_fields_of_a_newer_schema_are_left_out(database):
    sink = database.sink()
    newer = stream() | {"invented_next_year": {"any": "thing"}}
    sink.write(sink.claim(TOPIC, TOPIC_ID, 0, first=0), Batch(next=1, streams=[newer]))
    assert list(database.given().values()) == [stream()]


def test_a_zombie_touches_nothing(database):
    zombie, owner = database.sink(), database.sink()
    stale = zombie.claim(TOPIC, TOPIC_ID, 0, first=0)
    held = owner.claim(TOPIC, TOPIC_ID, 0, first=0)
    owner.write(held, Batch(next=3, streams=[stream(revision=3)]))
    before = database.everything()

    with pytest.raises(FenceLost, match=r"owner 1 at 0, PostgreSQL has owner 2 at 3"):
        zombie.write(stale, Batch(next=9, streams=[stream(revision=9), stream("job:2")]))
    assert database.everything() == before


def test_a_zombie_is_fenced_before_the_new_owner_has_written_anything(database):
    zombie, owner = database.sink(), database.sink()
    stale = zombie.claim(TOPIC, TOPIC_ID, 0, first=0)
    owner.claim(TOPIC, TOPIC_ID, 0, first=0)
    before = database.everything()
    with pytest.raises(FenceLost, match=r"PostgreSQL has owner 2 at 0"):
        zombie.write(stale, Batch(next=9, streams=[stream(revision=9)]))
    assert database.everything() == before


def test_a_claim_whose_position_was_already_used_is_fenced(database):
    sink = database.sink()
    held = sink.claim(TOPIC, TOPIC_ID, 0, first=0)
    sink.write(held, Batch(next=1, streams=[stream()]))
    with pytest.raises(FenceLost, match="owner 1 at 0, PostgreSQL has owner 1 at 1"):
        sink.write(held, Batch(next=1, streams=[stream(revision=2)]))


def test_a_position_that_somebody_deleted_is_fenced(database):
    sink = database.sink()
    held = sink.claim(TOPIC, TOPIC_ID, 0, first=0)
    database.query("DELETE FROM $schema.progress")
    with pytest.raises(FenceLost, match="no row at all"):
        sink.write(held, Batch(next=1, streams=[stream()]))
    assert database.given() == {}


def test_the_same_batch_again_has_one_effect(database):
    sink = database.sink()
    batch = [stream(f"job:{n}") for n in range(20)]
    sink.write(sink.claim(TOPIC, TOPIC_ID, 0, first=0), Batch(next=20, streams=batch))
    before = database.everything()
    database.query("UPDATE $schema.progress SET next = 0")  # as an older backup of the position would

    sink.write(sink.claim(TOPIC, TOPIC_ID, 0, first=0), Batch(next=20, streams=batch))
    assert database.everything()["streams"] == before["streams"]
    assert (sink.counts.rows_given, sink.counts.rows_stored) == (40, 20)


def test_after_a_crash_between_postgresql_and_kafka_the_next_owner_goes_on_without_a_hole_or_a_repeat(
    database,
):
    log = [stream(f"job:{n % 7}", revision=n + 1) for n in range(100)]
    first = database.sink()
    claim = first.claim(TOPIC, TOPIC_ID, 0, first=0)
    claim = first.write(claim, Batch(next=30, streams=log[0:30]))
    kafka_committed = claim.next
    first.write(claim, Batch(next=60, streams=log[30:60]))
    first.close()  # killed before it committed 60 in Kafka

    second = database.sink()
    claim = second.claim(TOPIC, TOPIC_ID, 0, first=kafka_committed)
    assert (kafka_committed, claim.next) == (30, 60)
    second.write(claim, Batch(next=100, streams=log[claim.next :]))
    assert second.counts.rows_given == 40
    assert database.given() == {("default", f"job:{n % 7}"): log[n] for n in range(93, 100)}


@pytest.mark.parametrize("given", [1, 5])
def test_an_older_or_equal_revision_never_overwrites(database, given):
    sink = database.sink()
    claim = sink.claim(TOPIC, TOPIC_ID, 0, first=0)
    claim = sink.write(
        claim,
        Batch(next=1, streams=[stream(revision=5)], usage_windows=[window(revision=5)]),
    )
    before = database.everything()
    older = Batch(
        next=2,
        streams=[stream(revision=given, kind="wrong")],
        usage_windows=[window(revision=given, calls=99)],
    )
    sink.write(claim, older)
    after = database.everything()
    assert after["streams"] == before["streams"]
    assert after["usage_windows"] == before["usage_windows"]
    assert after["progress"][0]["next"] == 2


def test_of_one_key_in_a_batch_the_newest_stays(database):
    sink = database.sink()
    rows = [stream(revision=1), stream("job:2"), stream(revision=3), stream(revision=2)]
    sink.write(sink.claim(TOPIC, TOPIC_ID, 0, first=0), Batch(next=4, streams=rows))
    assert database.given()[("default", "job:1")] == stream(revision=3)
    assert len(database.given()) == 2


def test_a_large_batch_is_one_transaction_in_several_statements(database):
    sink = database.sink(rows_a_statement_max=100)
    rows = [stream(f"job:{n}") for n in range(1_050)]
    sink.write(sink.claim(TOPIC, TOPIC_ID, 0, first=0), Batch(next=1_050, streams=rows))
    assert database.query("SELECT count(*), count(DISTINCT xmin::text) AS made FROM $schema.streams") == [
        {"count": 1_050, "made": 1}
    ]


def test_a_batch_without_rows_moves_the_position(database):
    sink = database.sink()
    claim = sink.write(sink.claim(TOPIC, TOPIC_ID, 0, first=4), Batch(next=9))
    assert claim.next == 9
    assert sink.claim(TOPIC, TOPIC_ID, 0, first=0).next == 9


@pytest.mark.parametrize("target", [3, 4])
def test_a_batch_that_does_not_move_on_is_a_mistake_of_the_caller(database, target):
    sink = database.sink()
    claim = sink.claim(TOPIC, TOPIC_ID, 0, first=4)
    with pytest.raises(ValueError, match="must move its partition on"):
        sink.write(claim, Batch(next=target, streams=[stream()]))


def test_hostile_text_is_stored_readable_and_counted(database):
    sink = database.sink()
    hostile = stream(
        request_id="nul \x00 and \ud800 alone",
        upstream_ids=["\x00", "fine"],
        events_by_type={"lo\x00g": 1},
        task_id="a backslash before \\u0000 is no NUL",
    )
    sink.write(sink.claim(TOPIC, TOPIC_ID, 0, first=0), Batch(next=1, streams=[hostile, stream("job:2")]))
    stored = database.given()[("default", "job:1")]
    assert stored["request_id"] == "nul \ufffd and \ufffd alone"
    assert stored["upstream_ids"] == ["\ufffd", "fine"]
    assert stored["events_by_type"] == {"lo\ufffdg": 1}
    assert stored["task_id"] == "a backslash before \\u0000 is no NUL"
    assert sink.counts.characters_replaced == 4


def test_keys_that_become_one_by_the_repair_are_reduced_to_the_newest(database):
    sink = database.sink()
    rows = [window("m\x00", revision=2), window("m\ud900", revision=3), window("m\ufffd", revision=1)]
    sink.write(sink.claim(TOPIC, TOPIC_ID, 0, first=0), Batch(next=3, usage_windows=rows))
    assert [row["revision"] for row in database.given(USAGE_WINDOWS).values()] == [3]


@pytest.mark.parametrize(
    ("time_us", "shown"),
    [
        (0, "1970-01-01 00:00:00+00"),
        (1_700_000_000_123_457, "2023-11-14 22:13:20.123457+00"),
        (-1, "1969-12-31 23:59:59.999999+00"),
        (4_102_444_800_000_001, "2100-01-01 00:00:00.000001+00"),
        (2**63 - 1, "294247-01-10 04:00:54.775807+00"),
        (-210_866_803_200_000_000, "4714-11-24 00:00:00+00 BC"),
        (-210_866_803_200_000_001, None),
        (-(2**63), None),
    ],
)
def test_any_time_is_kept_to_the_microsecond_and_shown_where_postgresql_can(database, time_us, shown):
    sink = database.sink()
    row = stream(opened_us=time_us)
    sink.write(sink.claim(TOPIC, TOPIC_ID, 0, first=0), Batch(next=1, streams=[row]))
    database.query("SET timezone = 'UTC'")
    assert database.query("SELECT opened_us, opened::text FROM $schema.streams") == [
        {"opened_us": time_us, "opened": shown}
    ]


def test_times_that_did_not_happen_yet_are_null_for_people(database):
    sink = database.sink()
    open_one = stream(first_data_us=0, last_data_us=0, ended_us=0)
    sink.write(sink.claim(TOPIC, TOPIC_ID, 0, first=0), Batch(next=1, streams=[open_one]))
    (row,) = database.query("SELECT opened, first_data, last_data, ended FROM $schema.streams")
    assert row == {
        "opened": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        "first_data": None,
        "last_data": None,
        "ended": None,
    }


def test_a_row_that_a_constraint_refuses_is_named_and_the_rest_can_be_written(database):
    sink = database.sink()
    database.query("ALTER TABLE $schema.streams ADD CONSTRAINT few CHECK (last_seq < 100)")
    rows = [stream(f"job:{n}") for n in range(50)]
    rows[33] = stream("job:33", last_seq=100)
    claim = sink.claim(TOPIC, TOPIC_ID, 0, first=0)
    before = database.everything()
    with pytest.raises(SinkRefused, match="few") as caught:
        sink.write(claim, Batch(next=50, streams=rows, usage_windows=[window()]))
    assert caught.value.row == 33
    assert "job:33" in caught.value.row_key
    assert database.everything() == before

    sink.write(claim, Batch(next=50, streams=rows[:33] + rows[34:], usage_windows=[window()]))
    assert len(database.given()) == 49


def test_a_key_too_long_for_an_index_is_refused_by_name_while_long_ids_are_stored(database):
    import random  # noqa: PLC0415  # incompressible text: PostgreSQL compresses what repeats

    noise = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=10_000))
    sink = database.sink()
    claim = sink.claim(TOPIC, TOPIC_ID, 0, first=0)
    with pytest.raises(SinkRefused) as caught:
        sink.write(claim, Batch(next=1, usage_windows=[window(), window(noise)]))
    assert (caught.value.table, caught.value.row) == ("usage_windows", 1)
    assert len(str(caught.value)) < 1_000
    sink.write(claim, Batch(next=1, streams=[stream(request_id=noise, task_id=noise)]))
    assert database.query("SELECT stream_id FROM $schema.streams WHERE request_id = %s", noise)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("opened_us", "yesterday"),
        ("opened_us", 2**63),
        ("opened_us", None),
        ("opened_us", 1.5),
        ("upstream_ids", "no list"),
        ("kind", None),
        ("revision", "1"),
        ("tenant", 5),
        ("last_seq", 2**70),
        ("events_by_type", {"x": object()}),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_table_column_and_row(database, column, value):
    sink = database.sink()
    claim = sink.claim(TOPIC, TOPIC_ID, 0, first=0)
    rows = [stream("job:0"), stream("job:1") | {column: value}, stream("job:2")]
    with pytest.raises(SinkRefused) as caught:
        sink.write(claim, Batch(next=3, streams=rows))
    refused = caught.value
    assert (refused.table, refused.row, refused.transient) == ("streams", 1, False)
    assert refused.column == (column if column != "events_by_type" else "")
    assert database.given() == {}
    sink.write(claim, Batch(next=3, streams=[rows[0], rows[2]]))


def test_a_missing_field_is_refused_by_name(database):
    sink = database.sink()
    claim = sink.claim(TOPIC, TOPIC_ID, 0, first=0)
    row = stream()
    del row["attempts"]
    with pytest.raises(SinkRefused, match=r"streams\.attempts .*missing"):
        sink.write(claim, Batch(next=1, streams=[row]))


@pytest.mark.parametrize(
    ("question", "index"),
    [
        ("request_id = 'request-7'", "streams_by_request"),
        ("task_id = 'job:7'", "streams_by_task"),
        ("tenant = 'default' AND opened_us BETWEEN 5 AND 9", "streams_by_time"),
        ("tenant = 'default' AND stream_id = 'job:7'", "streams_pkey"),
        ("tenant = 'default' AND ended_us = 0 AND last_data_us < 9", "streams_open"),
    ],
)
def test_what_users_ask_is_answered_by_an_index(database, question, index):
    sink = database.sink()
    rows = [
        stream(f"job:{n}", request_id=f"request-{n}", opened_us=n, last_data_us=n, ended_us=n % 50)
        for n in range(3_000)
    ]
    sink.write(sink.claim(TOPIC, TOPIC_ID, 0, first=0), Batch(next=3_000, streams=rows))
    database.query("ANALYZE $schema.streams")
    plan = database.query(f"EXPLAIN SELECT * FROM $schema.streams WHERE {question}")
    assert index in str(plan)


def test_what_was_passed_over_is_kept_with_the_position_so_that_its_dead_letter_can_be_made_again(database):
    sink = database.sink()
    claim = sink.claim(TOPIC, TOPIC_ID, 0, first=0)
    claim = sink.write(claim, Batch(next=5, refused=[Refusal(3, "too \x00 long"), Refusal(1, "no Avro")]))
    claim = sink.write(claim, Batch(next=9, refused=[Refusal(8, "later")]))
    sink.write(sink.claim(TOPIC, TOPIC_ID, 1, first=0), Batch(next=5, refused=[Refusal(2, "elsewhere")]))
    sink.close()  # killed before Kafka's commit

    again = database.sink()
    claim = again.claim(TOPIC, TOPIC_ID, 0, first=0)
    assert again.refused(claim, 0, 9) == [
        Refusal(1, "no Avro"),
        Refusal(3, "too \ufffd long"),
        Refusal(8, "later"),
    ]
    assert again.refused(claim, 2, 8) == [Refusal(3, "too \ufffd long")]


def test_a_zombie_leaves_no_refusals_behind(database):
    sink = database.sink()
    stale = sink.claim(TOPIC, TOPIC_ID, 0, first=0)
    sink.claim(TOPIC, TOPIC_ID, 0, first=0)
    with pytest.raises(FenceLost):
        sink.write(stale, Batch(next=5, refused=[Refusal(3, "too long")]))
    assert database.query("SELECT 1 FROM $schema.refusals") == []


def test_a_deferred_constraint_cannot_name_its_row_and_is_told_as_a_misfit_of_the_database(database):
    sink = database.sink()
    claim = sink.claim(TOPIC, TOPIC_ID, 0, first=0)
    database.query("ALTER TABLE $schema.streams ADD UNIQUE (task_id) DEFERRABLE INITIALLY DEFERRED")
    twice = [stream("job:1", task_id="t"), stream("job:2", task_id="t")]
    with pytest.raises(SinkUnfit, match="deferred constraint") as caught:
        sink.write(claim, Batch(next=2, streams=twice))
    assert "NOT DEFERRABLE" in caught.value.remedy
    assert database.given() == {}
    sink.write(claim, Batch(next=2, streams=twice[:1]))
