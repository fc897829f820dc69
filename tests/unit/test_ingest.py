"""Ingest judges lifecycle and order of single streams."""

from __future__ import annotations

import re

import pytest

from pipelines.ingest import Ingest, IngestOptions
from schemas import topics
from schemas.catalog import LocalSchemas
from schemas.errors import RegistryUnavailable
from schemas.kinds import BUILTIN_KINDS
from schemas.payloads import PayloadCodec
from schemas.topics import partition_of
from schemas.wire import WireCodec
from tests.unit.support_scope import CODEC, PAYLOADS, SECOND_US, START_US, Partition, make_event, payload

OPEN = make_event("open")
GOOD = CODEC.encode_event(OPEN)


def new_step(**options: int) -> Ingest:
    return Ingest(BUILTIN_KINDS, CODEC, PAYLOADS, IngestOptions(**{"partitions": 1, **options}))


@pytest.fixture
def partition() -> Partition:
    return Partition()


def feed(partition: Partition, *events, step: Ingest | None = None) -> None:
    partition.feed(step or new_step(), [partition.record(event) for event in events])


def shown(partition: Partition) -> list[tuple[int, str]]:
    return [(event.seq, event.type) for event in partition.events(topics.OUTPUT)]


def verdicts(partition: Partition) -> list[tuple[str, str]]:
    return [(reject["event_id"], reject["verdict"]) for reject in partition.values(topics.REJECTS)]


def test_a_stream_numbered_by_ingest_gets_contiguous_seq_from_0(partition):
    feed(partition, make_event("open"), make_event("log", event_id="a"), make_event("log", event_id="b"))
    feed(partition, make_event("end"))
    assert shown(partition) == [(0, "open"), (1, "log"), (2, "log"), (3, "end")]
    assert partition.counts == {"output": 4}


def test_a_stream_numbered_by_its_producer_is_put_in_order(partition):
    feed(partition, make_event("open", 0), make_event("log", 3), make_event("log", 1), make_event("log", 2))
    feed(partition, make_event("end", 4))
    assert shown(partition) == [(0, "open"), (1, "log"), (2, "log"), (3, "log"), (4, "end")]
    assert [event.event_id[:11] for event in partition.events(topics.OUTPUT)][1:4] == [
        "build-log-1", "build-log-2", "build-log-3",
    ]  # fmt: skip
    assert partition.counts == {"output": 5, "reorder_held": 1, "reorder_released": 1}


def test_a_payload_passes_unharmed_and_the_output_keeps_the_partition(partition):
    sent = make_event("log", event_id="a", fields={"line": "ünï\x00code"}, traceparent="", source="exec")
    feed(partition, make_event("open"), sent)
    got = partition.events(topics.OUTPUT)[1]
    assert (got.payload, got.payload_schema, got.source, got.time) == (
        sent.payload, sent.payload_schema, sent.source, sent.time,
    )  # fmt: skip


def test_a_repeated_event_is_a_duplicate_also_in_a_later_unit_and_after_the_end(partition):
    sent = [make_event("open"), make_event("log", event_id="a"), make_event("end")]
    feed(partition, *sent, sent[1])
    feed(partition, *sent)
    assert shown(partition) == [(0, "open"), (1, "log"), (2, "end")]
    assert [verdict for _, verdict in verdicts(partition)] == ["duplicate"] * 4
    assert partition.counts == {"output": 3, "duplicate": 4}


def test_what_comes_after_the_end_is_late_and_a_second_end_and_open_are_named(partition):
    feed(partition, make_event("open"), make_event("end"))
    feed(
        partition,
        make_event("log", event_id="l"),
        make_event("end", event_id="e", fields={"reason": "cancelled"}),
        make_event("open", event_id="o"),
        make_event("cancel", event_id="c"),
    )
    assert verdicts(partition) == [("l", "late"), ("e", "second_end"), ("o", "second_open"), ("c", "late")]
    assert shown(partition) == [(0, "open"), (1, "end")]


def test_a_second_open_is_refused_and_the_stream_goes_on(partition):
    feed(partition, make_event("open"), make_event("open", event_id="again"), make_event("log"))
    assert verdicts(partition) == [("again", "second_open")]
    assert shown(partition) == [(0, "open"), (1, "log")]
    told = partition.events(topics.LLM_CONTROL)
    assert [(event.type, event.event_id) for event in told] == [("open", "again")], "to who may answer to it"


def test_the_kind_says_whether_a_reject_is_also_a_dead_letter(partition):
    for kind in ("log", "chat"):
        feed(
            partition,
            make_event("open", stream=kind, kind=kind),
            make_event("end", stream=kind, kind=kind),
            make_event("log", stream=kind, kind=kind),
        )
    letters = partition.values(topics.DEAD_LETTERS)
    assert [(letter["key"], letter["cause"]) for letter in letters] == [(b"default/log", "late")]
    assert partition.counts == {"output": 4, "late": 2}


def test_a_seq_that_goes_back_is_out_of_order(partition):
    feed(partition, make_event("open", 0), make_event("log", 1), make_event("log", 1, event_id="other"))
    assert verdicts(partition) == [("other", "out_of_order")]


def test_mixing_the_two_numberings_is_named_but_a_client_may_cancel(partition):
    feed(partition, make_event("open", 0), make_event("log", -1, event_id="x"), make_event("cancel", -1))
    feed(partition, make_event("log", 1), make_event("open", -1, stream="other"))
    feed(partition, make_event("log", 1, stream="other", event_id="y"))
    assert verdicts(partition) == [("x", "mixed_seq"), ("y", "mixed_seq")]
    assert shown(partition) == [(0, "open"), (1, "cancel"), (2, "log"), (0, "open")]


@pytest.mark.parametrize(
    ("event", "names"),
    [
        (make_event("log", -1, event_id="x"), "was not opened"),
        (make_event("log", 0, event_id="x"), "was not opened"),
        (make_event("cancel", -1, event_id="x"), "was not opened"),
        (make_event("open", 5, event_id="x"), "open has seq 5"),
    ],
)
def test_an_event_of_an_unknown_stream_is_an_orphan(partition, event, names):
    feed(partition, event)
    (reject,) = partition.values(topics.REJECTS)
    assert reject["verdict"] == "orphan"
    assert names in reject["detail"]
    assert partition.counts == {"orphan": 1}


def test_events_that_overtook_their_open_wait_for_it(partition):
    feed(partition, make_event("log", 2), make_event("log", 1))
    feed(partition, make_event("open", 0))
    assert shown(partition) == [(0, "open"), (1, "log"), (2, "log")]
    assert partition.counts == {"output": 3, "reorder_held": 2, "reorder_released": 2}


def test_events_that_waited_for_an_open_in_vain_are_orphans(partition):
    feed(partition, make_event("log", 2), make_event("log", 1))
    feed(partition, make_event("open", stream="clock", time=START_US + 13 * SECOND_US))
    assert sorted(verdicts(partition)) == [
        (f"build-log-1-{START_US}", "orphan"),
        (f"build-log-2-{START_US}", "orphan"),
    ]
    assert not [key for key in partition.snapshot() if b"default/build" in key]


def test_a_missing_seq_is_declared_when_it_was_waited_for_long_enough(partition):
    feed(partition, make_event("open", 0), make_event("log", 4))
    feed(partition, make_event("open", stream="clock", time=START_US + 10 * SECOND_US - 1))
    assert (1, "gap") not in shown(partition)
    feed(partition, make_event("log", stream="clock", time=START_US + 10 * SECOND_US))
    feed(partition, make_event("log", 2), make_event("end", 5))
    own = [event for event in partition.events(topics.OUTPUT) if event.stream_id == "build"]
    assert [(event.seq, event.type) for event in own] == [(0, "open"), (1, "gap"), (2, "log"), (3, "end")]
    assert payload(own[1]) == {"from_seq": 1, "to_seq": 3, "count": 3, "reason": "missing_input"}
    assert verdicts(partition) == [(f"build-log-2-{START_US}", "out_of_order")]


def test_a_missing_seq_is_declared_when_too_many_wait(partition):
    held = BUILTIN_KINDS.named("log").order.reorder_events_max
    feed(partition, make_event("open", 0), *[make_event("log", 2 + number) for number in range(held)])
    assert shown(partition) == [(0, "open")]
    feed(partition, make_event("log", 2 + held))
    assert shown(partition)[:3] == [(0, "open"), (1, "gap"), (2, "log")]
    assert len(shown(partition)) == held + 3
    assert partition.counts["reorder_held"] == partition.counts["reorder_released"] == held + 1


def test_a_missing_seq_is_declared_when_too_many_bytes_wait(partition):
    step = new_step(reorder_bytes_max=3_000)
    lines = [make_event("log", seq, fields={"line": "x" * 1_000}) for seq in (2, 3, 4)]
    feed(partition, make_event("open", 0), *lines, step=step)
    assert shown(partition) == [(0, "open"), (1, "gap"), (2, "log"), (3, "log"), (4, "log")]


def test_an_end_rejects_what_waits_behind_it(partition):
    feed(partition, make_event("open", 0), make_event("log", 3), make_event("end", 4), make_event("end", 2))
    feed(partition, make_event("log", 1), make_event("log", 3))
    assert shown(partition) == [(0, "open"), (1, "log"), (2, "end")]
    assert [verdict for _, verdict in verdicts(partition)] == ["late", "second_end", "late"]
    assert partition.counts == {
        "output": 3, "late": 2, "second_end": 1, "reorder_held": 3, "reorder_released": 3,
    }  # fmt: skip


def test_the_end_tells_the_totals(partition):
    events = [make_event("open"), make_event("log", event_id="a"), make_event("end", fields={"exit_code": 3})]
    feed(partition, *events)
    end = payload(partition.events(topics.OUTPUT)[-1])
    size = len(events[0].payload) + len(events[1].payload)
    assert end == {"reason": "completed", "message": "", "exit_code": 3, "events": 2, "bytes": size}


def test_a_reset_raises_the_epoch_and_what_is_of_an_older_one_is_dropped(partition):
    feed(partition, make_event("open"), make_event("log", event_id="a"))
    feed(
        partition,
        make_event("reset", epoch=1),
        make_event("log", event_id="old"),
        make_event("log", event_id="new", epoch=1),
        make_event("reset", epoch=1, event_id="again"),
    )
    assert verdicts(partition) == [("old", "stale_epoch"), ("again", "stale_epoch")]
    assert shown(partition) == [(0, "open"), (1, "log"), (2, "reset"), (3, "log")]


def test_the_owner_of_the_newer_epoch_takes_the_seq_of_a_waiting_older_event(partition):
    feed(partition, make_event("open", 0), make_event("log", 2, event_id="old"))
    feed(partition, make_event("log", 2, epoch=1, event_id="new"), make_event("reset", 1, epoch=1))
    assert [event.event_id for event in partition.events(topics.OUTPUT)][-1] == "new"
    assert verdicts(partition) == [("old", "stale_epoch")]


def test_a_kind_other_than_the_streams_is_told_to_its_producer_and_is_a_dead_letter(partition):
    feed(partition, make_event("open"), make_event("log", kind="chat", event_id="other"))
    assert verdicts(partition) == [("other", "wrong_kind")]
    (letter,) = partition.values(topics.DEAD_LETTERS)
    assert (letter["cause"], letter["detail"]) == (
        "wrong_kind", "kind is 'chat', the stream was opened as 'log'",
    )  # fmt: skip
    assert partition.counts == {"output": 1, "wrong_kind": 1}


def test_an_event_that_came_before_an_open_of_another_kind_is_told_so_then(partition):
    feed(partition, make_event("log", 1, kind="chat", event_id="other"))
    assert verdicts(partition) == []
    feed(partition, make_event("open", 0))
    assert verdicts(partition) == [("other", "wrong_kind")]
    assert shown(partition) == [(0, "open")]


def test_an_event_refused_on_its_release_may_be_published_again(partition):
    feed(partition, make_event("open", 0), make_event("log", 2, event_id="x"))
    feed(partition, make_event("reset", 1, epoch=1))
    assert verdicts(partition) == [("x", "stale_epoch")]
    feed(partition, make_event("log", 2, epoch=1, event_id="x"))
    assert shown(partition) == [(0, "open"), (1, "reset"), (2, "log")]


def test_an_event_refused_from_the_buffer_may_be_published_again(partition):
    feed(partition, make_event("log", 2, event_id="x"), make_event("open", -1))
    assert verdicts(partition) == [("x", "mixed_seq")]
    feed(partition, make_event("log", -1, event_id="x"))
    assert shown(partition) == [(0, "open"), (1, "log")]


def test_a_cancel_with_the_producers_own_seq_takes_its_place(partition):
    feed(partition, make_event("open", 0), make_event("log", 2), make_event("cancel", 1))
    assert shown(partition) == [(0, "open"), (1, "cancel"), (2, "log")]


@pytest.mark.parametrize(
    ("key", "value", "cause", "names"),
    [
        (b"default/build", None, "InvalidEvent", "value: the record has none"),
        (b"default/build", b"", "BadMagic", "empty"),
        (b"default/build", b"{}", "BadMagic", "7b 7d"),
        (b"default/build", b"\x00\x00\x00\x00\x01\x02", "UnknownSchemaId", "schema id 1"),
        (None, GOOD, "InvalidEvent", "key: .* it is none"),
        (b"default/other", GOOD, "InvalidEvent", "default/other"),
        (b"default/build", GOOD[:-4], "Undecodable", "body"),
        (b"default/build", CODEC.encode_event(OPEN._replace(kind="nope")), "UnknownKind", "'nope'"),
        (b"default/build", CODEC.encode_event(OPEN._replace(type="gap")), "InvalidEvent", "sluicegate alone"),
        (b"default/build", CODEC.encode_event(OPEN._replace(seq=-2)), "InvalidEvent", "seq"),
        (
            b"default/build",
            CODEC.encode_event(OPEN._replace(type="end")),
            "InvalidEvent",
            "payload.open, not of",
        ),
        (b"default/build", CODEC.encode_event(OPEN._replace(payload=b"")), "Undecodable", "body"),
        (b"default/build", CODEC.encode_event(OPEN._replace(payload_schema=9)), "UnknownSchemaId", "id 9"),
    ],
)
def test_what_is_no_event_of_the_contract_is_a_dead_letter_with_its_bytes(
    partition, key, value, cause, names
):
    neighbours = [make_event("open", stream="calm"), make_event("end", stream="calm")]
    first, last = (partition.record(event) for event in neighbours)
    partition.feed(new_step(), [first, partition.raw(key, value), last])
    (letter,) = partition.values(topics.DEAD_LETTERS)
    assert (letter["cause"], letter["key"], letter["value"]) == (cause, key, value or b"")
    assert (letter["topic"], letter["partition"]) == ("streams.input.v1", 0)
    assert re.search(names, letter["detail"])
    assert shown(partition) == [(0, "open"), (1, "end")]
    assert partition.counts == {"output": 2, "dead_letter": 1}


def test_a_record_on_the_wrong_partition_is_a_dead_letter():
    event = make_event("open")
    home = partition_of(event.key, 4)
    for number in range(4):
        partition = Partition(number)
        feed(partition, event, step=new_step(partitions=4))
        assert partition.counts == ({"output": 1} if number == home else {"dead_letter": 1})


def test_a_type_of_the_users_own_passes_unharmed():
    schema = '{"type":"record","name":"sluicegate.payload.weather","fields":[{"name":"c","type":"int"}]}'
    source = LocalSchemas({"sluicegate.payload.weather": schema})
    codec, payloads = WireCodec(source), PayloadCodec(source)
    body, schema_id = payloads.encode("weather", {"c": -3})
    sent = OPEN._replace(type="weather", event_id="w", payload=body, payload_schema=schema_id)
    partition = Partition()
    feed(partition, OPEN, sent, step=Ingest(BUILTIN_KINDS, codec, payloads, IngestOptions(partitions=1)))
    got = partition.events(topics.OUTPUT)[1]
    assert got == sent._replace(seq=1)


def test_a_registry_that_does_not_answer_raises_and_says_nothing_about_the_record(partition):
    class Down(LocalSchemas):
        def schema_of(self, schema_id):
            raise RegistryUnavailable("http://registry", "refused")

    step = Ingest(BUILTIN_KINDS, CODEC, PayloadCodec(Down()), IngestOptions(partitions=1))
    with pytest.raises(RegistryUnavailable):
        feed(partition, OPEN, step=step)
    assert not partition.counts
    assert partition.snapshot() == {}
