"""Topics of the table on a real broker, and lag of a real group."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.kafka.admin import describe_topics, ensure_topics, group_lag, list_topics
from connectors.kafka.chunk import SourcePartition
from connectors.kafka.errors import KafkaUnavailable, TopicMismatch
from connectors.kafka.options import KafkaOptions
from connectors.kafka.positions import PositionReader
from connectors.kafka.tails import Tails
from pipelines.engine import Engine
from schemas.topics import DAY_MS, INPUT, LLM_CONTENTS, OUTPUT, TOPICS
from tests.support.topic_config import set_config

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def admin(kafka_options: KafkaOptions) -> AdminClient:
    return AdminClient(kafka_options.client_config())


def create(admin: AdminClient, name: str, partitions: int, **config: str) -> None:
    new = NewTopic(name, num_partitions=partitions, replication_factor=-1, config=config)
    admin.create_topics([new])[name].result(30)


def test_every_topic_is_created_as_the_table_says(kafka_options: KafkaOptions) -> None:
    done = ensure_topics(kafka_options, TOPICS)
    assert done.created == tuple(spec.named(kafka_options.topic_prefix) for spec in TOPICS)
    assert done.warnings == ()
    states = {state.name: state for state in describe_topics(kafka_options, TOPICS)}
    for spec in TOPICS:
        state = states[spec.named(kafka_options.topic_prefix)]
        assert state.partitions == spec.partitions
        assert {**state.config, **spec.config()} == state.config
        assert state.replicas >= 1
        assert state.under_replicated == 0
    assert list_topics(kafka_options) == sorted(states)


def test_a_deployment_s_own_retention_is_what_topics_are_made_with_and_held_against(
    kafka_options: KafkaOptions,
) -> None:
    own = replace(kafka_options, retention_ms={LLM_CONTENTS.name: 2 * DAY_MS})
    specs = [LLM_CONTENTS, OUTPUT]
    assert len(ensure_topics(own, specs).created) == 2
    config = {state.name: state.config for state in describe_topics(own, specs)}
    contents, output = (config[spec.named(own.topic_prefix)] for spec in specs)
    assert (contents["retention.ms"], contents["segment.ms"]) == (str(2 * DAY_MS), str(DAY_MS // 2))
    assert output["retention.ms"] == str(OUTPUT.retention_ms)
    assert ensure_topics(own, specs).warnings == ()
    told = ensure_topics(kafka_options, specs).warnings
    assert [f"retention.ms={2 * DAY_MS}" in line or "segment.ms" in line for line in told] == [True, True]
    assert all("kafka-configs.sh --alter" in line for line in told)


def test_a_second_time_nothing_is_done(kafka_options: KafkaOptions) -> None:
    ensure_topics(kafka_options, TOPICS)
    again = ensure_topics(kafka_options, TOPICS)
    assert (again.created, again.warnings) == ((), ())


def test_several_workers_create_them_at_once(kafka_options: KafkaOptions) -> None:
    created: list[tuple[str, ...]] = []
    errors: list[BaseException] = []

    def ensure() -> None:
        try:
            created.append(ensure_topics(kafka_options, TOPICS).created)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=ensure) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    everything = [name for names in created for name in names]
    assert sorted(everything) == sorted(spec.named(kafka_options.topic_prefix) for spec in TOPICS)


def test_another_partition_count_is_an_error_that_names_the_way_out(
    kafka_options: KafkaOptions, admin: AdminClient
) -> None:
    name = INPUT.named(kafka_options.topic_prefix)
    create(admin, name, 3, **INPUT.config())
    with pytest.raises(TopicMismatch, match=f"{name}: has 3 partitions, must have 4") as caught:
        ensure_topics(kafka_options, [INPUT])
    assert "new version of the topic" in caught.value.remedy


@pytest.mark.parametrize(
    ("key", "value"), [("cleanup.policy", "compact"), ("message.timestamp.type", "CreateTime")]
)
def test_what_would_break_correctness_is_an_error(
    kafka_options: KafkaOptions, admin: AdminClient, key: str, value: str
) -> None:
    create(admin, OUTPUT.named(kafka_options.topic_prefix), 4, **{**OUTPUT.config(), key: value})
    with pytest.raises(TopicMismatch, match=f"has {key}={value}") as caught:
        ensure_topics(kafka_options, [OUTPUT])
    assert "--alter" in caught.value.remedy


def test_another_retention_is_told_and_lived_with(kafka_options: KafkaOptions, admin: AdminClient) -> None:
    ensure_topics(kafka_options, [OUTPUT])
    name = OUTPUT.named(kafka_options.topic_prefix)
    set_config(admin, name, "retention.ms", "1000")
    for _ in range(50):
        done = ensure_topics(kafka_options, [OUTPUT])
        if done.warnings:
            break
        time.sleep(0.1)
    assert [warning for warning in done.warnings if "retention.ms=1000" in warning and name in warning]


def test_a_cluster_that_is_not_there_is_named() -> None:
    options = KafkaOptions("127.0.0.1:1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("connectors.kafka.admin._CALL_S", 1.0)
        patch.setattr("connectors.kafka.lag._CALL_S", 1.0)
        for ask in (lambda: ensure_topics(options, TOPICS), lambda: group_lag(options, "g")):
            with pytest.raises(KafkaUnavailable, match=r"127\.0\.0\.1:1") as caught:
                ask()
            assert "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS" in caught.value.remedy


def test_a_cluster_that_is_away_is_not_called_forty_times_a_second() -> None:
    calls = 0
    with socket.create_server(("127.0.0.1", 0)) as hanging_up:

        def hang_up() -> None:
            nonlocal calls
            while True:
                try:
                    caller, _ = hanging_up.accept()
                except OSError:
                    return
                calls += 1
                caller.close()

        answering = threading.Thread(target=hang_up, daemon=True)
        answering.start()
        client = AdminClient(KafkaOptions(f"127.0.0.1:{hanging_up.getsockname()[1]}").client_config())
        with pytest.raises(KafkaException):
            client.list_topics(timeout=3)
        assert 1 <= calls <= 12  # forty a second would be over a hundred
        hanging_up.shutdown(socket.SHUT_RDWR)
        answering.join(10)


class Log:
    """A topic of four partitions, a group that reads it, and a transactional producer."""

    def __init__(self, options: KafkaOptions) -> None:
        ensure_topics(options, [INPUT])
        self.topic = INPUT.named(options.topic_prefix)
        self.group = f"{options.topic_prefix}reader"
        config = options.client_config() | {"transactional.id": f"{options.topic_prefix}log"}
        self.producer = Producer(config)
        self.producer.init_transactions(30)
        self._consumer = Consumer(options.client_config() | {"group.id": self.group})

    def append(self, partition: int, count: int, *, commit: bool | None = True) -> None:
        self.producer.begin_transaction()
        for _ in range(count):
            self.producer.produce(self.topic, b"v", key=b"k", partition=partition)
        self.producer.flush(30)
        if commit is not None:
            (self.producer.commit_transaction if commit else self.producer.abort_transaction)(30)

    def commit(self, partition: int, offset: int) -> None:
        self._consumer.commit(offsets=[TopicPartition(self.topic, partition, offset)], asynchronous=False)

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture
def log(kafka_options: KafkaOptions) -> Iterator[Log]:
    log = Log(kafka_options)
    yield log
    log.close()


def lag_by_partition(options: KafkaOptions, group: str) -> dict[int, Any]:
    return {lag.partition: lag for lag in group_lag(options, group)}


def test_a_group_that_nobody_knows_has_no_lag(kafka_options: KafkaOptions) -> None:
    assert group_lag(kafka_options, f"{kafka_options.topic_prefix}nobody") == []


def test_lag_counts_records_and_seconds_on_every_partition(kafka_options: KafkaOptions, log: Log) -> None:
    log.append(0, 10)
    log.append(1, 5)
    time.sleep(1.5)
    log.append(0, 10)
    log.commit(0, 11)  # all of the first transaction, with its marker
    lags = lag_by_partition(kafka_options, log.group)
    assert set(lags) == {0, 1, 2, 3}
    assert (lags[0].committed, lags[0].records, lags[0].last_stable) == (11, 11, 22)
    assert lags[0].seconds < 1.5
    assert (lags[1].committed, lags[1].records) == (-1, 6)  # never committed: all of it is ahead
    assert lags[1].seconds >= 1.5
    assert (lags[2].records, lags[2].seconds) == (0, 0.0)
    assert [lag.partition for lag in group_lag(kafka_options, log.group)][:2] == [1, 0]  # worst first


def test_a_marker_at_the_end_is_no_lag(kafka_options: KafkaOptions, log: Log) -> None:
    log.append(0, 10)
    log.commit(0, 10)  # where a consumer stands after the last record: the marker takes offset 10
    lags = lag_by_partition(kafka_options, log.group)
    assert lags[0].last_stable == 11
    assert (lags[0].records, lags[0].seconds) == (0, 0.0)
    with closing(Tails(kafka_options)) as tails, closing(PositionReader(kafka_options, log.group)) as reader:
        worker = SimpleNamespace(reader=reader, tails=tails, _asked_s={})
        first = SourcePartition(log.topic, 0)
        for _ in range(2):  # asked, and known
            assert Engine.behind(worker, {first: (10, 0)}) == {first: (0, 0.0)}  # type: ignore[arg-type]
        log.append(0, 1)
        while reader.stable_end(*first) < 13:  # the broker writes markers after it has answered
            time.sleep(0.05)
        ((records, seconds),) = Engine.behind(worker, {first: (10, 0)}).values()  # type: ignore[arg-type]
        assert records == 3
        assert seconds > 0


def test_an_aborted_transaction_is_no_lag(kafka_options: KafkaOptions, log: Log) -> None:
    log.append(0, 1)
    log.commit(0, 2)
    log.append(0, 100, commit=False)
    assert lag_by_partition(kafka_options, log.group)[0].records == 0


def test_what_an_open_transaction_hides_is_not_counted_but_shown(
    kafka_options: KafkaOptions, log: Log
) -> None:
    log.append(0, 1)
    log.commit(0, 2)
    log.append(0, 50, commit=None)
    lag = lag_by_partition(kafka_options, log.group)[0]
    assert (lag.records, lag.last_stable, lag.high_watermark) == (0, 2, 52)
    log.producer.commit_transaction(30)
    assert lag_by_partition(kafka_options, log.group)[0].records == 51


def test_lag_of_a_topic_that_was_removed_is_none(
    kafka_options: KafkaOptions, log: Log, admin: AdminClient
) -> None:
    log.append(0, 1)
    log.commit(0, 1)
    admin.delete_topics([log.topic])[log.topic].result(30)
    for _ in range(50):
        if log.topic not in list_topics(kafka_options):
            break
        time.sleep(0.1)
    assert group_lag(kafka_options, log.group) == []


def test_a_table_with_fewer_topics_leaves_the_others_alone(kafka_options: KafkaOptions) -> None:
    ensure_topics(kafka_options, TOPICS[:2])
    states = describe_topics(kafka_options, (*TOPICS, replace(INPUT, name="streams.nothing.v1")))
    assert [state.name for state in states] == [spec.named(kafka_options.topic_prefix) for spec in TOPICS[:2]]
