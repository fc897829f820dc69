"""The poll thread at its ends: whoever asks it something is answered, even when it runs no more."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, Message, TopicPartition

from connectors.kafka import consumer as module
from connectors.kafka.chunk import Records, SourcePartition, events_of
from connectors.kafka.consumer import PollThread
from connectors.kafka.errors import ConsumerFailed, ConsumerFenced, IdentityHeld
from connectors.kafka.membership import ConsumerOptions
from connectors.kafka.memory import MemoryKafka
from connectors.kafka.options import KafkaOptions
from schemas.topics import INPUT

SOURCE = SourcePartition("streams.input.v1", 0)

pytestmark = pytest.mark.timeout(20)


class Listener:
    """Lets go of partitions when ``letting_go`` is set."""

    def __init__(self):
        self.failures = []
        self.letting_go = Future()

    def deliver(self, _chunks):
        pass

    def assigned(self, _sources):
        pass

    def revoked(self, _sources, *, lost):
        return self.letting_go

    def failed_for_good(self, error):
        self.failures.append(error)


def poll_thread(listener, chunkers=None, **options):
    """A poll thread whose broker is not there: nothing here needs one."""
    return PollThread(
        KafkaOptions("127.0.0.1:1"),
        ConsumerOptions("group", "member", **options),
        chunkers or {SOURCE.topic: events_of(list)},
        listener,
    )


def test_what_is_asked_after_the_end_is_refused_and_not_left_waiting():
    thread = poll_thread(Listener())
    thread.start()
    assert thread.call(lambda: 7).result(timeout=5) == 7
    thread.stop()
    thread.join(10)
    with pytest.raises(ConsumerFailed, match="poll thread has ended"):
        thread.rewind({SOURCE: 3}, 1).result(timeout=1)


def test_what_waits_when_the_thread_fails_is_refused_and_the_listener_is_told():
    listener = Listener()
    thread = poll_thread(listener, {"": events_of(list)})  # not a topic's name: subscribe refuses it
    waiting = thread.call(lambda: 7)
    thread.start()
    thread.join(10)
    assert len(listener.failures) == 1
    with pytest.raises(ConsumerFailed):
        waiting.result(timeout=1)


def test_that_a_member_is_fenced_is_heard_though_a_rewind_makes_void_what_was_fetched_with_it():
    """Who is fenced has its unit fail, which is rewound while its partitions are let go of, in one fetch."""
    thread = poll_thread(Listener())
    fenced = KafkaError(KafkaError._FATAL, "Fatal consumer error: fenced by newer consumer", fatal=True)

    def consume(_records, _timeout):
        thread._rewind({}, thread._epoch + 1)
        return []

    thread._consumer = SimpleNamespace(
        poll=lambda _timeout: Message(error=fenced), consume=consume, consumer_group_metadata=lambda: None
    )
    with pytest.raises(ConsumerFenced):
        thread._fetch()


def test_a_partition_is_not_given_up_before_the_listener_has_let_go_of_it():
    listener = Listener()
    thread = poll_thread(listener, max_poll_interval_ms=50)
    thread.assignment = frozenset([SOURCE])
    parts = [TopicPartition(*SOURCE)]
    leaving = threading.Thread(target=lambda: thread._let_go(parts, lost=True))
    leaving.start()
    assert thread.call(lambda: "served").result(timeout=5) == "served"
    leaving.join(0.3)
    assert leaving.is_alive()
    assert thread.assignment == {SOURCE}
    listener.letting_go.set_result(None)
    leaving.join(5)
    assert not leaving.is_alive()
    assert thread.assignment == frozenset()


@pytest.mark.parametrize(
    ("fenced_after_s", "outage", "joined"),
    [([40.0, 44.0, 40.0], True, 4), ([40.0, 3.0], True, 2), ([40.0], False, 1)],
    ids=["outage after outage", "a twin that fences it at once", "no outage"],
)
def test_a_member_that_is_fenced_joins_again_after_an_outage_and_not_against_a_twin(
    monkeypatch, fenced_after_s, outage, joined
):
    listener = Listener()
    thread = poll_thread(listener)
    now, fences, polls = 1_000.0, list(fenced_after_s), 0

    def poll():
        nonlocal now, polls
        polls += 1
        if not fences:
            thread.stop()
            return
        now += fences.pop(0)
        if outage:
            thread._away_at = now
        raise ConsumerFenced("group", "member")

    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(thread, "_poll", poll)
    monkeypatch.setattr(thread, "_let_go", lambda _parts, *, lost: None)
    thread._consumer = SimpleNamespace(close=lambda: None)
    thread.run()
    assert polls == joined
    assert len(listener.failures) == (joined <= len(fenced_after_s))


@pytest.mark.parametrize(("tries", "joins"), [(3, True), (200, False)], ids=["its session ends", "a twin"])
def test_an_identity_that_is_held_is_waited_for_as_long_as_a_session_may_last(monkeypatch, tries, joins):
    listener = Listener()
    thread = poll_thread(listener)
    now, polls, closes = 1_000.0, 0, []

    def poll():
        nonlocal polls
        polls += 1
        if polls <= tries:
            raise IdentityHeld("group", "member")
        thread.stop()

    def wait(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(thread, "_poll", poll)
    monkeypatch.setattr(thread._stopping, "wait", wait)
    thread._consumer = SimpleNamespace(close=lambda: closes.append(now))
    thread.run()
    assert (not listener.failures) is joins
    assert polls == (4 if joins else 92)
    assert len(closes) == polls, "and once at the end"


def test_records_are_cut_into_pieces_by_their_bytes_and_none_is_left_out():
    sizes = [3, 3, 3, 9, 20, 1]
    records = Records(
        SOURCE, [Message("in", 0, i, None, bytes(size), None, None, (1, 7)) for i, size in enumerate(sizes)]
    )
    pieces = records.pieces(9)
    assert [[record.size_bytes for record in piece] for piece in pieces] == [[3, 3, 3], [9], [20], [1]]
    assert [record for piece in pieces for record in piece] == list(records)
    assert records.pieces(39) == [records]


def test_few_records_of_many_bytes_hold_the_fetching_too(monkeypatch):
    monkeypatch.setattr("connectors.kafka.handover._PATIENCE_S", -1.0)
    thread = poll_thread(Listener(), handover_records_max=100, handover_bytes_max=1_000)
    paused = []
    thread._consumer = SimpleNamespace(
        pause=lambda _parts: paused.append(True), resume=lambda _parts: paused.append(False)
    )
    thread.handled(-1, -1_000)
    thread._regulate()  # full from now on
    thread._regulate()
    thread.handled(0, 400)
    thread._regulate()
    thread.handled(0, 100)
    thread._regulate()
    assert paused == [True, False]


class HandedOver:
    """A listener that takes all partitions and does nothing with their chunks until it is told to."""

    def __init__(self):
        self.thread, self.chunks, self.fell_behind = None, [], threading.Event()
        self.on_deliver = lambda: None

    def deliver(self, chunks):
        self.chunks += chunks
        self.on_deliver()
        if sum(map(len, self.chunks)) >= 100:
            self.fell_behind.set()

    def assigned(self, sources):
        for source in sources:
            self.thread.start_partition(source, 0)

    def revoked(self, _sources, *, lost):
        done = Future()
        done.set_result(None)
        return done

    def failed_for_good(self, error):
        raise error


class Counting:
    """A consumer that counts what it is asked."""

    def __init__(self, consumer, asked):
        self._consumer, self._asked = consumer, asked

    def __getattr__(self, name):
        self._asked.append(name)
        return getattr(self._consumer, name)


@pytest.mark.parametrize(("patience_s", "pauses"), [(60.0, False), (0.0, True)])
def test_a_hand_over_that_is_full_takes_no_more_and_pauses_only_when_it_lasts(
    monkeypatch, patience_s, pauses
):
    """A pause throws away what was fetched ahead; without one for long, a rebalance would wait."""
    monkeypatch.setattr("connectors.kafka.handover._PATIENCE_S", patience_s)
    kafka, asked, listener = MemoryKafka(lambda: 1_000), [], HandedOver()
    kafka.create([INPUT])
    clients = kafka.clients()
    producer = clients.producer({})
    for number in range(1_000):
        producer.produce(INPUT.name, b"%d" % number, b"k", 0)
    options = KafkaOptions(
        "memory:0",
        clients=replace(clients, consumer=lambda config: Counting(clients.consumer(config), asked)),
    )
    bounds = ConsumerOptions("group", "member", chunk_records_max=50, handover_records_max=100)
    thread = listener.thread = PollThread(options, bounds, {INPUT.name: events_of(list)}, listener)
    thread.start()
    assert listener.fell_behind.wait(10)
    assert thread.call(lambda: 7).result(10) == 7, "who asks is answered meanwhile"
    wait_for(lambda: asked.count("pause") >= pauses)
    assert sum(map(len, listener.chunks)) == 100
    assert asked.count("pause") == pauses
    handled = 0
    while handled < 1_000:
        wait_for(lambda: len(listener.chunks) > 0)
        chunk = listener.chunks.pop(0)
        handled += len(chunk)
        thread.handled(len(chunk), chunk.size_bytes)
    thread.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_what_trickles_in_while_nobody_could_handle_it_is_handed_over_at_once_and_a_flood_is_not_kept():
    kafka, listener = MemoryKafka(lambda: 1_000), HandedOver()
    kafka.create([INPUT])
    producer = kafka.clients().producer({})
    thread = listener.thread = PollThread(
        KafkaOptions("memory:0", clients=kafka.clients()),
        ConsumerOptions("group", "member", chunk_records_max=50),
        {INPUT.name: events_of(list)},
        listener,
    )

    def publish(count):
        for _ in range(count):
            producer.produce(INPUT.name, b"1", b"k", 0)

    thread.start()
    publish(1)
    wait_for(lambda: listener.chunks)
    thread.gather(60)
    assert thread.call(lambda: 7).result(10) == 7, "who asks is answered meanwhile"
    publish(3)
    time.sleep(0.05)
    assert sum(map(len, listener.chunks)) == 1
    thread.gather(0)
    wait_for(lambda: len(listener.chunks) == 2)
    assert len(listener.chunks[1]) == 3

    thread.gather(60)
    thread.call(lambda: None).result(10)
    publish(100)
    floods = []
    listener.on_deliver = lambda: (floods.append(thread.flooded), thread.gather(60))
    thread.gather(0)
    wait_for(lambda: sum(map(len, listener.chunks)) == 104)
    thread.gather(0)
    assert floods == [True, True]
    wait_for(lambda: not thread.flooded)  # nothing came for a tenth of a second
    thread.stop()
    thread.join(10)
    assert not thread.is_alive()


def wait_for(done):
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_an_end_that_is_not_known_yet_takes_no_partition_back_to_what_was_handled():
    thread = poll_thread(Listener())
    thread._consumer = SimpleNamespace(pause=lambda _parts: None)
    thread._expected[SOURCE] = 50

    thread._stop_at(SOURCE, 0)

    assert thread._expected[SOURCE] == 50
