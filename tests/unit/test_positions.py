"""The reader of positions: what the broker refuses is said at once, what may pass is waited for."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from connectors.kafka import positions
from connectors.kafka.errors import KafkaUnavailable, PositionRefused, RestoreStalled
from connectors.kafka.options import KafkaOptions
from connectors.kafka.positions import Committed, PositionReader, metadata_of, read_metadata, silence_note


class Broker:
    """Stands in for a consumer: gives its answers, each an error or an offset, the last one for ever."""

    def __init__(self, *answers):
        self._answers = list(answers)
        self.asked = 0

    def _answer(self):
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, KafkaError):
            raise KafkaException(answer)
        return answer

    def committed(self, parts, timeout):
        return [TopicPartition(parts[0].topic, parts[0].partition, self._answer(), metadata="7")]

    def get_watermark_offsets(self, _where, timeout):
        return 0, self._answer()


@pytest.fixture
def reader():
    reader = PositionReader(KafkaOptions("127.0.0.1:1"), "the-group")
    yield reader
    reader.close()


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
    ],
)
def test_what_the_broker_refuses_is_said_at_once_and_by_its_name(reader, monkeypatch, code):
    broker = Broker(KafkaError(code))
    monkeypatch.setattr(reader, "_consumer", broker)
    with pytest.raises(PositionRefused, match=r"group the-group on t\[3\] is refused: .*uth") as caught:
        reader.committed("t", 3)
    assert broker.asked == 1
    assert caught.value.fatal
    assert "principal" in caught.value.remedy
    monkeypatch.setattr(reader, "_log", Broker(KafkaError(code)))
    with pytest.raises(PositionRefused, match=r"t\[3\]"):
        reader.ends("t", 3)


def test_what_may_pass_is_asked_again(reader, monkeypatch):
    away = KafkaError(KafkaError._TRANSPORT)
    moved = KafkaError(KafkaError.NOT_COORDINATOR)
    monkeypatch.setattr(reader, "_consumer", Broker(away, moved, 12))
    assert reader.committed("t", 3) == Committed(12, 7)


def test_a_client_that_gets_no_answer_is_replaced(reader, monkeypatch):
    silent, answering = Broker(KafkaError(KafkaError._TIMED_OUT)), Broker(12)
    monkeypatch.setattr(reader, "_consumer", silent)
    monkeypatch.setattr(reader, "_client", lambda _isolation: answering)
    assert reader.committed("t", 3) == Committed(12, 7)
    assert silent.asked == 1


def test_a_partition_without_a_leader_yet_is_asked_again(reader, monkeypatch):
    leaderless = KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION)
    monkeypatch.setattr(reader, "_log", Broker(leaderless, leaderless, 12))
    assert reader.ends("t", 3) == (0, 12)


def test_a_client_that_keeps_to_it_that_nobody_leads_is_replaced(reader, monkeypatch):
    unknown = KafkaError(KafkaError._UNKNOWN_PARTITION)
    stuck = Broker(unknown)
    monkeypatch.setattr(reader, "_log", stuck)
    monkeypatch.setattr(
        reader,
        "_client",
        lambda _isolation_level: SimpleNamespace(
            get_watermark_offsets=lambda _where, timeout: (0, 12), close=lambda: None
        ),
    )
    assert reader.ends("t", 3) == (0, 12)
    assert stuck.asked == 10


def test_a_silence_beside_an_offset_is_no_standstill():
    silent = Committed(7, *read_metadata(metadata_of(3, silence_note(5_000_000))))
    assert (silent.unit, silent.silent_us, silent.standstill) == (3, 5_000_000, "")
    stands = Committed(7, *read_metadata(metadata_of(3, "ValueError: poison")))
    assert (stands.silent_us, stands.standstill) == (0, "ValueError: poison")


def test_an_answer_that_does_not_come_is_kafka_being_away(reader, monkeypatch):
    monkeypatch.setattr(positions, "_CALL_S", -0.9)
    silent = SimpleNamespace(describe_topics=lambda topics, request_timeout: {"t": Future()})
    monkeypatch.setattr(reader, "_admin", silent)
    with pytest.raises(KafkaUnavailable, match="t: no answer") as caught:
        reader.topic_id("t")
    assert caught.value.transient


def test_a_restore_that_stands_still_is_waited_for():
    assert RestoreStalled("t", 0, 1, 2).transient
