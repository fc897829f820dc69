"""What is told of brokers that are away: a line an outage, whatever librdkafka says with each try."""

from __future__ import annotations

import logging

import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from structlog.testing import capture_logs

from connectors.kafka.options import KafkaOptions
from connectors.kafka.said import OUTAGE_S, Said

NOBODY = KafkaOptions("127.0.0.1:1")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_client_that_nobody_listens_to_says_nothing_by_itself(capfd):
    producer = Producer(NOBODY.client_config() | {"enable.idempotence": True})
    producer.poll(1.5)  # it tries to connect twice meanwhile
    del producer
    told = capfd.readouterr()
    assert (told.out, told.err) == ("", "")


def test_a_consumer_whose_brokers_are_away_is_told_of_once_and_says_nothing_by_itself(capfd):
    said = Said()
    with capture_logs() as lines:
        consumer = Consumer(
            NOBODY.client_config() | said.config() | {"group.id": "g", "error_cb": said.error}
        )
        consumer.subscribe(["t"])
        consumer.poll(2.5)
        consumer.close()
    assert [line["event"] for line in lines] == ["brokers away, waiting for them"]
    assert "Connection refused" in lines[0]["cause"] or "brokers are down" in lines[0]["cause"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("pause_s", [0.5, OUTAGE_S])
def test_an_outage_lasts_until_nothing_was_said_for_a_while(pause_s):
    clock = Clock()
    said = Said(clock)
    with capture_logs() as lines:
        for _ in range(400):
            assert said.error(KafkaError(KafkaError._TRANSPORT, "refused"), group="g")
            said.log(logging.ERROR, "", "FAIL", "producer-1", "refused")
            clock.now_s += pause_s
        clock.now_s += OUTAGE_S
        said.log(logging.WARNING, "", "GETPID", "producer-1", "no id")
    assert [line["cause"] for line in lines] == ["refused", "no id"]
    assert lines[0]["group"] == "g"


def test_what_is_no_connections_is_told_each_time_and_what_is_well_never():
    said = Said()
    with capture_logs() as lines:
        said.log(logging.WARNING, "", "MAXPOLL", "consumer-1", "too slow")
        said.log(logging.WARNING, "", "MAXPOLL", "consumer-1", "too slow")
        said.log(logging.INFO, "", "FAIL", "consumer-1", "Disconnected (after 600000ms in state UP)")
        assert not said.error(KafkaError(KafkaError._PARTITION_EOF, "end"))
    assert [(line["event"], line["said"]) for line in lines] == [("librdkafka", "too slow")] * 2
