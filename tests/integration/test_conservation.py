"""I1 and I2 of the reliability page: every input has one outcome, every accepted event one effect.

A few hundred thousand events of several tenants on four partitions, with duplicates, late, re-ordered,
far-future and broken ones mixed in, while the whole worker is killed twice. What is expected comes from how
the input was made, not from the code under test.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx2
import psycopg
import pytest
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from pipelines.streams import Status
from schemas.payloads import PayloadCodec
from schemas.published import event_from_json
from schemas.topics import DEAD_LETTERS, INPUT, OUTPUT, REJECTS, partition_of
from schemas.wire import WireCodec
from tests.support.ports import consecutive_ports
from tests.support.read_topic import read_committed
from tests.support.stored_streams import stored_streams
from tests.support.worker_process import WorkerProcess

if TYPE_CHECKING:
    from schemas.envelope import Event

STREAMS = 60
EVENTS_A_STREAM = 2_000
EVENTS_A_SECOND = 12_000
PROVIDERS = ["north", "south", "east"]
FAR_FUTURE_US = 4_070_908_800_000_000  # the year 2099


@dataclass
class Scenario:
    """What is sent, in order, and what must come of it."""

    seed: int
    tenants: list[str]
    sent: list[tuple[bytes | None, bytes, int | None]] = field(default_factory=list)
    accepted: dict[bytes, list[str]] = field(default_factory=dict)
    rejects: Counter = field(default_factory=Counter)
    broken: Counter = field(default_factory=Counter)
    usage: dict = field(default_factory=lambda: defaultdict(Counter))


class Maker:
    """Makes a scenario; all chance comes from one seed, which a failure prints."""

    def __init__(self, seed, codec, payloads):
        self.random, self.codec, self.payloads = random.Random(seed), codec, payloads
        run = uuid.uuid4().hex[:8]
        self.scenario = Scenario(seed, [f"{name}-{run}" for name in ("acme", "globex", "initech")])
        self.now_us = time.time_ns() // 1_000

    def event(self, tenant, stream_id, seq, type_, payload, **fields) -> Event:
        body = {
            "type": type_,
            "seq": seq,
            "payload": payload,
            "event_id": uuid.UUID(int=self.random.getrandbits(128)).hex,
            **fields,
        }
        return event_from_json(
            body,
            tenant=tenant,
            stream_id=stream_id,
            kind="log",
            payloads=self.payloads,
            now_us=self.now_us + seq * 50,
        )

    def make(self):
        streams = [self.stream(i) for i in range(STREAMS)] + [self.orphans()]
        while streams:  # interleaved at random, each stream's own order kept
            at = self.random.randrange(len(streams))
            for _ in range(self.random.randrange(1, 40)):
                if not streams[at]:
                    streams.pop(at)
                    break
                event = streams[at].pop(0)
                self.scenario.sent.append((event.key, self.codec.encode_event(event), None))
        self.break_some()
        return self.scenario

    def stream(self, number):
        tenant, stream_id = self.random.choice(self.scenario.tenants), f"build-{number}"
        events = [self.event(tenant, stream_id, 0, "open", {"title": f"build {number}"})]
        events += [self.data(tenant, stream_id, seq) for seq in range(1, EVENTS_A_STREAM)]
        end = self.event(tenant, stream_id, EVENTS_A_STREAM, "end", {"reason": "completed"})
        self.scenario.accepted[events[0].key] = [e.event_id for e in [*events, end]]
        wire = self.shuffled(events)
        self.insert_rejected(wire, tenant, stream_id)
        wire.append(end)
        for verdict, type_, payload in (
            ("late", "log", {"line": "too late"}),
            ("second_end", "end", {"reason": "cancelled"}),
            ("second_open", "open", {"title": "again"}),
        ):
            wire.append(self.event(tenant, stream_id, EVENTS_A_STREAM + 1, type_, payload))
            self.scenario.rejects[verdict, wire[-1].event_id] += 1
        wire.append(self.random.choice(events))
        self.scenario.rejects["duplicate", wire[-1].event_id] += 1
        return wire

    def data(self, tenant, stream_id, seq):
        if seq % 10:
            event = self.event(tenant, stream_id, seq, "log", {"line": f"line {seq}"})
            return event._replace(time=FAR_FUTURE_US) if seq % 333 == 0 else event
        provider = self.random.choice(PROVIDERS)
        figures = {
            "calls": 1,
            "errors": int(self.random.random() < 0.1),
            "input_tokens": self.random.randrange(1_000),
            "output_tokens": self.random.randrange(1_000),
            "cost_nanos": self.random.randrange(10**9),
        }
        event = self.event(tenant, stream_id, seq, "usage", {"provider": provider, "model": "m1", **figures})
        window_us = event.time - event.time % 60_000_000
        self.scenario.usage[window_us, tenant, provider].update(figures)
        return event

    def shuffled(self, events):
        """Re-order within a handful: far inside of the kind's reorder bound."""
        wire = list(events)
        for at in range(1, len(wire) - 6, 6):
            if self.random.random() < 0.5:
                part = wire[at : at + 6]
                self.random.shuffle(part)
                wire[at : at + 6] = part
        return wire

    def insert_rejected(self, wire, tenant, stream_id):
        """Duplicates of what was sent before, and new events under a seq that is taken."""
        for _ in range(60):
            source = self.random.randrange(1, len(wire) - 20)
            wire.insert(self.random.randrange(source + 12, len(wire)), wire[source])
            self.scenario.rejects["duplicate", wire[source].event_id] += 1
        for _ in range(5):
            at = self.random.randrange(len(wire) - 10, len(wire))
            event = self.event(tenant, stream_id, 1, "log", {"line": "a second line one"})
            wire.insert(at, event)
            self.scenario.rejects["out_of_order", event.event_id] += 1

    def orphans(self):
        events = [
            self.event(self.scenario.tenants[0], f"nobody-{i}", -1, "log", {"line": "hello?"})
            for i in range(200)
        ]
        self.scenario.rejects.update(("orphan", event.event_id) for event in events)
        return events

    def break_some(self):
        """Records that no event comes of: each is expected, byte for byte, in the dead letters."""
        good = self.codec.encode_event(
            self.event(self.scenario.tenants[0], "broken", -1, "log", {"line": "x"})
        )
        key = f"{self.scenario.tenants[0]}/broken".encode()
        home = partition_of(key, INPUT.partitions)
        for i in range(300):
            mark = i.to_bytes(2, "big")
            kind = i % 6
            value, its_key, partition = good + mark, key, None  # trailing bytes
            if kind == 0:
                value = b"\x07" + mark + good  # wrong magic byte
            elif kind == 1:
                value = b"\x00\x7f\xff\xff\xff" + good[5:] + mark  # unknown schema id
            elif kind == 2:
                value = good[: 6 + i % 20] + b""  # truncated
            elif kind == 3:
                value, its_key = self._marked(i), None  # no key
            elif kind == 4:
                value, partition = self._marked(i), (home + 1) % INPUT.partitions  # on a wrong partition
            self.scenario.broken[value] += 1
            self.scenario.sent.insert(
                self.random.randrange(len(self.scenario.sent)), (its_key, value, partition)
            )

    def _marked(self, number):
        event = self.event(self.scenario.tenants[0], "broken", -1, "log", {"line": f"broken {number}"})
        return self.codec.encode_event(event)


@pytest.fixture
def scenario(registry):
    # CI sends the same each time, as a failure there is to be looked into and not to be met again by chance.
    seed = 20_261_126 if os.environ.get("CI") else random.SystemRandom().randrange(10**9)
    print(f"seed {seed}: put it here to replay")  # noqa: T201
    return Maker(seed, WireCodec(registry), PayloadCodec(registry)).make()


class Publisher(threading.Thread):
    """Sends the scenario at a steady rate whatever happens to the worker, as real producers do.

    A pause would leave holes open for longer than the kind waits for a missing seq, and ingest would be
    right to declare them.
    """

    def __init__(self, kafka, sent):
        super().__init__(daemon=True)
        self._kafka, self._sent = kafka, sent
        self.done = 0
        self.left = None

    def run(self):
        producer = Producer(
            self._kafka.client_config()
            | {"partitioner": "murmur2_random", "linger.ms": 5, "enable.idempotence": True}
        )
        for key, value, partition in self._sent:
            where = {} if partition is None else {"partition": partition}
            self._produce(producer, value, key, **where)
            self.done += 1
            if self.done % 500 == 0:
                producer.poll(0)
                time.sleep(500 / EVENTS_A_SECOND)
        self.left = producer.flush(60)

    def _produce(self, producer, value, key, **where):
        while True:
            try:
                return producer.produce(INPUT.named(self._kafka.topic_prefix), value, key, **where)
            except BufferError:  # a broker that stands still for a while: wait for room, and lose nothing
                producer.poll(0.1)


@pytest.mark.timeout(600)
def test_every_input_has_one_outcome_and_every_accepted_event_one_effect(
    stack, kafka_options, topics, registry, scenario, tmp_path
):
    topics()
    sent = scenario.sent
    publisher = Publisher(kafka_options, sent)
    port = consecutive_ports(3)
    web = {"SLUICEGATE_WORKER__WEB_PORT": str(port)}
    worker = WorkerProcess(stack, kafka_options, tmp_path, **web)
    try:
        worker.wait_ready(4)
        publisher.start()
        for part in (1, 2):
            while publisher.done < part * len(sent) // 3:
                time.sleep(0.05)
            assert len(read_committed(kafka_options, OUTPUT, 100, quiet_s=0.0)) >= 100
            worker.kill()  # in the midst of its units of work
            worker = WorkerProcess(stack, kafka_options, tmp_path, **web)
        publisher.join(120)
        assert publisher.left == 0
        accepted = sum(len(ids) for ids in scenario.accepted.values())
        outputs = read_committed(kafka_options, OUTPUT, accepted, deadline_s=300)
        rejects = read_committed(kafka_options, REJECTS, scenario.rejects.total())
        letters = read_committed(kafka_options, DEAD_LETTERS, scenario.broken.total())
        check_outputs(scenario, WireCodec(registry), outputs)
        check_rejects(scenario, WireCodec(registry), rejects, letters)
        assert len(outputs) + len(rejects) + scenario.broken.total() == len(sent), "I1: conservation"
        check_postgres(scenario, stack.postgres_dsn)
        check_counters(port)
        assert worker.stop() == 0
        check_rocksdb(scenario, tmp_path)
    finally:
        worker.kill()


def check_counters(port):
    """I1 as Prometheus sees it, by the rule of deploy/prometheus: for each role, agent and partition."""
    agents = set()
    for role in range(3):
        text = httpx2.get(f"http://127.0.0.1:{port + role}/metrics", trust_env=False, verify=False).text
        sources, settled = Counter(), Counter()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                at = (sample.labels.get("agent"), sample.labels.get("partition"))
                fate = sample.labels.get("fate")
                if sample.name == "sluicegate_source_records_total":
                    sources[at] += sample.value
                elif sample.name == "sluicegate_inputs_total" and fate != "beside":
                    settled[at] += -sample.value if fate == "released" else sample.value
        assert sources == settled
        agents |= {agent for agent, _ in sources}
    assert agents == {"ingest", "usage_partials", "usage_merge", "archive_streams", "archive_usage"}


def check_outputs(scenario, codec, outputs):
    """I2 and I4: per stream the accepted events, once each, in the producer's order, seq contiguous."""
    by_stream = defaultdict(list)
    for message in outputs:
        event = codec.decode_event(message.value())
        if event.type != "tick":
            by_stream[event.key].append(event)
            assert message.partition() == partition_of(event.key, OUTPUT.partitions)
    assert by_stream.keys() == scenario.accepted.keys()
    for key, events in by_stream.items():
        assert [event.event_id for event in events] == scenario.accepted[key]
        assert [event.seq for event in events] == list(range(EVENTS_A_STREAM + 1))


def check_rejects(scenario, codec, rejects, letters):
    found = Counter()
    for message in rejects:
        reject = codec.decode(message.value(), REJECTS.subject)
        found[reject["verdict"], reject["event_id"]] += 1
    assert found == scenario.rejects
    dead = Counter()
    for message in letters:
        letter = codec.decode(message.value(), DEAD_LETTERS.subject)
        if letter["value"] in scenario.broken:
            dead[letter["value"]] += 1
            assert letter["topic"].endswith(INPUT.name)
            assert letter["cause"]
            assert letter["detail"]
    assert dead == scenario.broken


def check_postgres(scenario, dsn, deadline_s=60.0):
    """The archive holds each stream's record and the usage windows' sums, by window, tenant and provider."""
    deadline = time.monotonic() + deadline_s
    while True:
        with psycopg.connect(dsn) as connection:
            streams = connection.execute(
                "SELECT tenant || '/' || stream_id, last_seq, end_reason, "
                "(SELECT sum(value::bigint) FROM jsonb_each_text(events_by_type)) "
                "FROM sluicegate.streams WHERE tenant = ANY(%s)",
                [scenario.tenants],
            ).fetchall()
            windows = connection.execute(
                "SELECT window_start_us, tenant, provider, calls, errors, input_tokens, output_tokens, "
                "cost_nanos FROM sluicegate.usage_windows WHERE tenant = ANY(%s) AND provider <> ''",
                [scenario.tenants],
            ).fetchall()
        wanted_streams = {
            (key.decode(), EVENTS_A_STREAM, "completed", EVENTS_A_STREAM + 1) for key in scenario.accepted
        }
        names = ("calls", "errors", "input_tokens", "output_tokens", "cost_nanos")
        wanted_windows = {(*k, *(sums[n] for n in names)) for k, sums in scenario.usage.items()}
        if set(streams) == wanted_streams and set(windows) == wanted_windows:
            return
        if time.monotonic() > deadline:
            assert set(streams) == wanted_streams
            assert sorted(windows) == sorted(wanted_windows)
        time.sleep(0.5)


def check_rocksdb(scenario, data_dir):
    """The state on disk says of each stream what was appended."""
    stored = stored_streams(data_dir)
    for key, ids in scenario.accepted.items():
        assert stored[key].next_seq == len(ids)
        assert stored[key].status is Status.ENDED
        assert stored[key].waiting == 0
