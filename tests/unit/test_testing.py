"""The driver that agents are tested with: what it feeds, shows and refuses; and Kafka in memory under it."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from connectors.kafka import transaction
from connectors.kafka.errors import NoSuchTopic, TopicUndeclared
from connectors.kafka.memory import MemoryKafka
from pipelines import role
from pipelines.errors import UnknownRole, WorkerStopped
from pipelines.extension import Extension
from pipelines.testing import AgentDriver, NotAtRest
from schemas.errors import SluicegateError, Undecodable
from schemas.topics import INDEX, INPUT, OUTPUT, USAGE_WINDOWS
from tests.support.twin_scenario import CLOSED, EACH, READINGS, ROWS, SCHEMA, SUBJECT, extension, topic

ROOT = Path(__file__).parents[2]
KEPT = topic("twin.one.changelog.v1", cleanup="compact")
ROW = {"sensor": "a", "amount": 1, "unit": "kWh"}

pytestmark = pytest.mark.timeout(60)


def role_of(handle, **source):
    """A role of one event agent that does ``handle(scope, row)``."""

    def register(app, tools, _options):
        given = {"decode": tools.decoder(SUBJECT), **source}

        @app.agent(app.source(READINGS, agent="one", **given))
        async def one(stream):
            async for row in stream:
                handle(stream.scope, row)

    return Extension({"one": [register]}, (READINGS, EACH), {SUBJECT: SCHEMA})


@pytest.fixture
def drive(tmp_path):
    drivers = []

    def start(handle=None, role="one", **how):
        given = extension() if handle is None else role_of(handle, changelog=KEPT)
        drivers.append(AgentDriver(role, given, folder=tmp_path, **how))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.close()


def test_a_role_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(UnknownRole, match="nobody"):
        AgentDriver("nobody", folder=tmp_path)


def test_what_made_the_role_stop_is_raised_where_it_was_fed(drive):
    def handle(_scope, _row):
        raise WorkerStopped("out of order", remedy="Mend it.")

    with pytest.raises(WorkerStopped, match="out of order"):
        drive(handle).feed(ROW, key=b"a")


def test_a_topic_that_nothing_declares_is_named_with_what_to_do(drive):
    driver = drive(lambda scope, _row: scope.emit(topic("twin.elsewhere.v1"), b"a", b"1"))
    with pytest.raises(TopicUndeclared, match=r"no topic twin\.elsewhere\.v1") as caught:
        driver.feed(ROW, key=b"a")
    assert "TOPICS" in caught.value.remedy
    with pytest.raises(NoSuchTopic):
        driver.read("twin.nowhere.v1")


def test_what_does_not_pass_is_not_waited_for_without_an_end(drive):
    class Away(SluicegateError):
        transient = True

    away = [True]

    def handle(scope, _row):
        if away[0]:
            raise Away("it is away")
        scope.count("counted")

    driver = drive(handle)
    driver.append(ROW, key=b"a")
    with pytest.raises(NotAtRest, match=r"not handled all of its input after 0\.3 s"):
        driver.run(within_s=0.3)
    away[0] = False
    driver.run()
    assert driver.counts == {"counted": 1}


def test_a_unit_ends_when_all_that_was_fed_is_handled_and_never_by_time(drive):
    driver = drive(lambda scope, _row: scope.update(EACH, b"k", b"v"), chunk_events_max=10)
    driver.feed(*[ROW] * 25, key=b"a", partition=0)
    assert len(driver.read(EACH)) == 3, "an update a unit, and a unit for each chunk of ten"


def test_the_producer_of_a_role_that_is_silent_for_long_is_made_anew_between_units(drive, monkeypatch):
    monkeypatch.setattr(role, "_LAG_S", 0.02)
    monkeypatch.setattr(transaction, "_RENEW_S", 0.05)
    driver = drive(lambda scope, _row: scope.emit(EACH, b"k", b"v"))
    unit = driver._role.live.engine.transaction
    first, deadline = unit._producer, time.monotonic() + 20
    while unit._producer is first:
        assert time.monotonic() < deadline, "it is never made anew"
        driver.run()
    driver.feed(ROW, key=b"a")
    assert driver.values(EACH) == [b"v"]


def test_an_agent_that_remembers_outside_of_its_scope_is_found_by_an_abort(drive):
    seen = []

    def handle(scope, _row):
        seen.append(1)
        scope.emit(EACH, b"k", b"%d" % len(seen))

    driver = drive(handle)
    driver.abort_next_unit()
    driver.feed(ROW, key=b"a")
    assert driver.values(EACH) == [b"2"]


def test_a_role_that_is_at_least_once_says_again_what_a_refused_commit_was_of(drive):
    def handle(scope, row):
        n = int(scope.state.get(b"n") or 0) + row["amount"]
        scope.state.put(b"n", b"%d" % n)
        scope.emit(EACH, b"k", b"%d" % n)

    driver = drive(handle, at_least_once=True)
    driver.abort_next_unit()
    driver.feed(ROW, ROW, key=b"a", partition=0)
    assert driver.values(EACH) == [b"1", b"2", b"1", b"2"]
    assert driver.state().get(b"n") == b"2"
    driver.restart(lose_state=True)
    assert driver.state().get(b"n") == b"2", "the last value of the changelog"


def test_an_agent_that_may_not_pass_an_event_stands_still_until_it_is_resumed(tmp_path):
    broken = [True]

    def handle(scope, row):
        if row["unit"] == "bad" and broken[0]:
            raise ValueError("not this one")
        scope.emit(EACH, b"k", row["unit"].encode())

    agents = role_of(handle, on_failure="stop-partition")
    with AgentDriver("one", agents, folder=tmp_path) as driver:
        driver.append(*({**ROW, "unit": unit} for unit in ("first", "bad", "last")), key=b"a", partition=1)
        driver.feed({**ROW, "unit": "beside"}, key=b"a", partition=0)
        assert sorted(driver.values(EACH)) == [b"beside", b"first"]
        ((where, standstill),) = driver.standstills.items()
        assert (where, standstill.record.offset, standstill.attempts) == ((READINGS.name, 1), 1, 3)
        assert driver.dead_letters() == []
        broken[0] = False
        driver.resume()
        assert driver.values(EACH) == [b"bad", b"last"]
        assert driver.standstills == {}


def test_an_agent_says_itself_how_often_an_event_is_tried(tmp_path):
    tries = []

    def handle(_scope, row):
        tries.append(row["unit"])
        raise ValueError("not this one")

    with AgentDriver("one", role_of(handle, attempts_max=2), folder=tmp_path) as driver:
        driver.feed(ROW, key=b"a")
        (letter,) = driver.dead_letters()
    assert (letter.attempts, len(tries)) == (2, 2)


def say_unit(scope, row):
    scope.emit(EACH, b"k", row["unit"].encode(), partition=scope.partition)


def test_what_is_paused_waits_over_a_restart_until_it_is_resumed(drive):
    driver = drive(say_unit)
    driver.pause(1)
    for partition, unit in ((1, "waits"), (0, "flows")):
        driver.feed({**ROW, "unit": unit}, key=b"a", partition=partition)
    assert driver.values(EACH) == [b"flows"]
    driver.restart()
    assert driver.values(EACH) == []
    driver.resume(1)
    assert driver.values(EACH) == [b"waits"]
    assert driver.dead_letters() == []


def test_a_resume_of_all_takes_back_each_pause_and_one_of_a_part_is_refused_while_all_is_paused(drive):
    driver = drive(say_unit)
    driver.pause(0)
    driver.pause()
    for partition in (0, 1):
        driver.feed(ROW, key=b"a", partition=partition)
    with pytest.raises(ValueError, match="paused as a whole"):
        driver.resume(0)
    assert driver.values(EACH) == []
    driver.resume()
    assert len(driver.values(EACH)) == 2


def test_what_falls_due_of_a_paused_partition_waits_too(drive):
    driver = drive(role="twin")
    driver.feed(driver.event("open"), topic="twin.events.v1")
    driver.pause()
    driver.advance(60)
    assert driver.read(CLOSED) == []
    driver.resume()
    driver.advance(0)
    assert [closed.value.split()[0] for closed in driver.read(CLOSED)] == [b"minute", b"visit"]


def test_an_event_at_which_an_agent_stands_still_is_skipped_and_is_a_dead_letter(tmp_path):
    def handle(scope, row):
        if row["unit"] == "bad":
            raise ValueError("not this one")
        say_unit(scope, row)

    agents = replace(role_of(handle, on_failure="stop-partition"), versions={"one": "2026.3"})
    with AgentDriver("one", agents, folder=tmp_path) as driver:
        driver.feed(*({**ROW, "unit": unit} for unit in ("first", "bad", "last")), key=b"a", partition=1)
        ((_, standstill),) = driver.standstills.items()
        driver.skip(READINGS, 1, standstill.record.offset, reason="broken at its source")
        assert driver.values(EACH) == [b"first", b"last"]
        (letter,) = driver.dead_letters()
        assert (letter.cause, letter.from_offset, letter.code_version) == ("skipped", 1, "2026.3")
        assert "broken at its source" in letter.detail


def test_records_of_a_key_in_quarantine_are_dead_letters_until_it_is_taken_back(drive):
    driver = drive(say_unit)
    driver.quarantine(b"bad", reason="a loop")
    for key in (b"bad", b"good"):
        driver.feed({**ROW, "unit": key.decode()}, key=key, partition=0)
    driver.quarantine(b"bad", undo=True)
    driver.feed({**ROW, "unit": "mended"}, key=b"bad", partition=0)
    assert driver.values(EACH) == [b"good", b"mended"]
    assert [(letter.cause, letter.key) for letter in driver.dead_letters()] == [("quarantined", b"bad")]


def test_a_partition_that_is_taken_away_has_no_state_here_until_it_comes_back(drive):
    driver = drive(lambda scope, _row: scope.state.put(b"n", b"%d" % scope.partition))
    for partition in (0, 1):
        driver.feed(ROW, key=b"a", partition=partition)
    ((topic, taken),) = driver.take_away()
    assert topic == READINGS.name
    with pytest.raises(LookupError, match="taken away"):
        driver.state(partition=taken)
    assert driver.state().get(b"n") == b"%d" % (1 - taken), "what is left has no other of that key"
    driver.give_back()
    assert driver.state(partition=taken).get(b"n") == b"%d" % taken


def test_headers_come_to_an_agent_go_out_with_what_it_says_and_stand_in_its_letters(tmp_path):
    seen = []
    given = (("trace", b"\x00"), ("trace", b"again"), ("null", None))

    def register(app, tools, _options):
        @app.agent(app.source(READINGS, agent="one", decode=tools.decoder(SUBJECT)))
        async def one(stream):
            async for row in stream:
                event = stream.current_event
                seen.append((event.headers, event.message.headers))
                if row["unit"] == "bad":
                    raise ValueError(row["unit"])
                stream.scope.emit(EACH, b"k", b"v", headers=(*stream.record.headers, ("by", b"one")))

    agents = Extension({"one": [register]}, (READINGS, EACH), {SUBJECT: SCHEMA})
    with AgentDriver("one", agents, folder=tmp_path) as driver:
        driver.feed(ROW, {**ROW, "unit": "bad"}, key=b"a", headers=given)
        (output,) = driver.read(EACH)
        assert output.headers == (*given, ("by", b"one"))
        assert [letter.headers for letter in driver.dead_letters()] == [given]
        assert seen[0] == ({"trace": b"again", "null": None}, list(given))
        driver.feed(ROW, key=b"a")
        assert seen[-1] == ({}, None)


def test_headers_that_no_topic_takes_fail_the_event_and_not_the_unit(drive):
    headers = {"kWh": (("h", bytes(5_000)),), "Wh": (("\ud800", b"v"),), "MWh": (("h", b"v"),)}
    driver = drive(lambda scope, row: scope.emit(EACH, b"k", b"v", headers=headers[row["unit"]]))
    driver.feed(*({**ROW, "unit": unit} for unit in headers), key=b"a", partition=0)
    assert [output.headers for output in driver.read(EACH)] == [headers["MWh"]]
    assert [letter.cause for letter in driver.dead_letters()] == ["EffectTooLarge", "UnicodeEncodeError"]


def test_time_stands_still_unless_it_is_moved_and_then_moves_by_as_much(drive):
    driver = drive(role="twin")
    began_us = driver.now_us
    driver.feed(driver.event("open"), topic="twin.events.v1")
    driver.run()
    assert driver.read(CLOSED) == []
    driver.advance(31.5)
    assert driver.read(CLOSED) == [], "half a second before the session is due"
    driver.advance(0.5)
    (visit,) = driver.read(CLOSED)
    assert visit.value.startswith(b"visit")
    assert driver.now_us == began_us + 32_000_000


def test_event_time_is_brought_up_to_the_clock_for_an_agent_that_does_not_ask(drive, tmp_path):
    def register(app, tools, _options):
        @app.agent(app.source(OUTPUT, agent="one", decode=tools.decode_events))
        async def one(stream):
            async for event in stream:
                stream.scope.count(f"{event.type} {stream.record.timestamp_us}")

    with AgentDriver("one", Extension({"one": [register]}), folder=tmp_path, start_us=5_000_000) as driver:
        driver.advance(60)
        assert driver.counts == {}
        driver.tick()
        assert driver.counts == {"tick 65000000": OUTPUT.partitions}
    with pytest.raises(ValueError, match="a tick is one"):
        drive(role="twin").tick(READINGS)


def test_a_tick_that_settles_nothing_comes_again_each_second_and_no_oftener(tmp_path):
    def register(app, tools, _options):
        source = app.source(
            OUTPUT, agent="one", decode=tools.decode_events, open_deadline=lambda _state: 1
        )  # fmt: skip

        @app.agent(source)
        async def one(stream):
            async for event in stream:
                stream.scope.count(event.type)

    with AgentDriver("one", Extension({"one": [register]}), folder=tmp_path) as driver:
        driver.advance(3)
        assert driver.counts == {"tick": 4 * OUTPUT.partitions}, "now, and in each of three seconds"


def test_a_changelog_of_other_partitions_than_the_inputs_is_refused(tmp_path):
    def register(app, tools, _options):
        app.source(OUTPUT, agent="one", decode=tools.decode_events, changelog=KEPT)

    with pytest.raises(ValueError, match=r"twin\.one\.changelog\.v1 must have as many partitions as streams"):
        AgentDriver("one", Extension({"one": [register]}), folder=tmp_path)


def test_a_deadline_on_a_topic_that_cannot_hold_a_tick_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"twin\.readings\.v1 holds no sluicegate\.Event"):
        AgentDriver("one", role_of(print, open_deadline=lambda _state: 1), folder=tmp_path)


def test_what_a_test_asks_for_must_be_clear(drive):
    driver = drive(role="twin")
    with pytest.raises(ValueError, match="several inputs"):
        driver.feed(ROW, key=b"a")
    with pytest.raises(ValueError, match="key, or its partition"):
        driver.feed(ROW, topic=ROWS)
    with pytest.raises(TypeError, match="feed bytes"):
        driver.feed(ROW, topic=EACH, key=b"a")
    with pytest.raises(LookupError, match="counter, sums, windows"):
        driver.state()
    with pytest.raises(TypeError, match="the agent alone"):
        driver.state("sums").put(b"a", b"1")


def test_a_state_key_of_several_partitions_is_read_of_one(drive):
    driver = drive(role="twin")
    for partition in (0, 1):
        driver.feed(ROW, topic=ROWS, key=b"k", partition=partition)
    with pytest.raises(LookupError, match=r"partitions \[0, 1\]"):
        driver.state("sums").get(b"a")
    assert driver.state("sums", partition=1).get(b"a") is not None


def test_records_that_do_not_decode_are_shown_as_what_they_are(drive):
    driver = drive(lambda scope, _row: scope.count("counted"))
    good = driver.tools.codec.encode(SUBJECT, ROW)
    driver.feed(good, good[:-3], None, key=b"a")
    first, second, third = driver.values(READINGS)
    assert first == ROW
    assert isinstance(second, Undecodable)
    assert third is None
    assert [letter.cause for letter in driver.dead_letters()] == ["Undecodable"]


@pytest.mark.parametrize(
    "role", ["aggregate", "ingest"]
)  # archive stands on PostgreSQL, of account test_account tells
def test_our_own_roles_run_under_it(tmp_path, role):
    with AgentDriver(role, folder=tmp_path) as driver:
        usage = {"provider": "acme", "model": "small", "input_tokens": 7}
        source = INPUT if role == "ingest" else OUTPUT
        driver.feed(driver.event("open", kind="job"), driver.event("usage", usage, kind="job"), topic=source)
        if role == "ingest":
            assert [event.seq for event in driver.values(OUTPUT)] == [0, 1]
            assert driver.table(INDEX)[b"default/one"]["open_offset"] == 0
        else:
            driver.advance(600)
            assert {window["final"] for window in driver.table(USAGE_WINDOWS).values()} == {True}


@pytest.mark.timeout(180)  # a process with a dozen roles, one after the other
def test_the_examples_of_the_pages_pass_their_tests():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "docs/examples/agents/tests"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# -- Kafka in memory: what the real one does, too (tests/integration/test_testing_twin.py) ------------------


@pytest.fixture
def kafka():
    kafka = MemoryKafka(lambda: 5_000_000)
    kafka.create([EACH])
    return kafka


def producer_of(kafka, name):
    producer = kafka.clients().producer({"transactional.id": name})
    producer.init_transactions(1)
    return producer


def read(kafka, isolation="read_committed"):
    consumer = kafka.clients().consumer({"group.id": "g", "isolation.level": isolation})
    consumer.assign([TopicPartition(EACH.name, 0, 0)])
    return [(message.offset(), message.value()) for message in consumer.consume(100, 0)]


def test_a_transaction_is_seen_whole_or_not_at_all_and_its_marker_takes_an_offset(kafka):
    producer = producer_of(kafka, "a")
    for value, end in ((b"1", producer.commit_transaction), (b"2", producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce(EACH.name, value, b"k", partition=0)
        assert (0, value) not in read(kafka)
        end(1)
    producer.begin_transaction()
    producer.produce(EACH.name, b"3", b"k", partition=0)
    kafka.clients().producer({}).produce(EACH.name, b"after", b"k", partition=0)
    assert read(kafka) == [(0, b"1")], "what stands behind an open transaction waits for it"
    producer.commit_transaction(1)
    assert read(kafka) == [(0, b"1"), (4, b"3"), (5, b"after")]
    assert [offset for offset, _ in read(kafka, "read_uncommitted")] == [0, 2, 4, 5]


def test_offsets_commit_with_their_transaction_alone(kafka):
    producer, part = producer_of(kafka, "a"), TopicPartition(EACH.name, 0, 7, metadata="9")
    consumer = kafka.clients().consumer({"group.id": "g"})
    for end, offset in ((producer.abort_transaction, -1001), (producer.commit_transaction, 7)):
        producer.begin_transaction()
        producer.send_offsets_to_transaction([part], consumer.consumer_group_metadata(), 1)
        assert consumer.committed([part], 1)[0].offset < 0
        end(1)
        assert consumer.committed([part], 1)[0].offset == offset


def test_a_producer_whose_id_was_taken_is_fenced_and_what_it_left_open_is_aborted(kafka):
    first = producer_of(kafka, "a")
    first.begin_transaction()
    first.produce(EACH.name, b"left", b"k", partition=0)
    producer_of(kafka, "a")
    with pytest.raises(KafkaException) as caught:
        first.commit_transaction(1)
    assert caught.value.args[0].code() == KafkaError._FENCED
    assert read(kafka) == []


def test_a_key_has_the_partition_that_librdkafka_gives_it(kafka):
    producer, said = kafka.clients().producer({}), []
    for key in (b"s", b"a"):
        producer.produce(EACH.name, b"v", key, on_delivery=lambda _error, message: said.append(message))
    producer.flush()
    assert [message.partition() for message in said] == [1, 0]  # as a broker's client answered


def test_a_record_over_the_topics_limit_is_refused_in_its_report(kafka):
    said = []
    producer = producer_of(kafka, "a")
    producer.begin_transaction()
    producer.produce(EACH.name, bytes(5_000), b"k", on_delivery=lambda error, _message: said.append(error))
    producer.flush()
    assert [error.code() for error in said] == [KafkaError.MSG_SIZE_TOO_LARGE]
    with pytest.raises(KafkaException) as caught:
        producer.commit_transaction(1)
    assert caught.value.args[0].txn_requires_abort()
