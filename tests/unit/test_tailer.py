"""What a tail says of errors, and of ends: those of topics that were just made pass by themselves."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka import KafkaError, KafkaException
from structlog.testing import capture_logs

from connectors.kafka import tailer
from connectors.kafka.options import KafkaOptions
from connectors.kafka.tailer import Followed, Tailer

NOT_LEADER, REFUSED = KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN


@pytest.mark.parametrize(
    ("code", "settles_s", "level"),
    [(NOT_LEADER, 60.0, "info"), (NOT_LEADER, 0.0, "warning"), (REFUSED, 60.0, "warning")],
)
def test_a_leader_that_is_not_known_yet_is_no_warning_soon_after_a_start(code, settles_s, level, monkeypatch):
    monkeypatch.setattr(tailer, "_PAUSE_S", 0.0)
    monkeypatch.setattr(tailer, "_SETTLES_S", settles_s)
    states = []

    class Listener:
        tail_state = states.append

    class Fresh(Tailer):
        """One whose broker answers once that it does not lead the partition, and then is left."""

        answers = iter([KafkaException(KafkaError(code, "told"))])

        def _assign(self, consumer):
            for answer in self.answers:
                raise answer
            self.stop()

    loop = asyncio.new_event_loop()
    try:
        with capture_logs() as told:
            Fresh(KafkaOptions("127.0.0.1:1"), [], list, Listener(), loop).run()
        loop.call_soon(loop.stop)
        loop.run_forever()
    finally:
        loop.close()
    (line,) = (line for line in told if line["event"] == "tail_failed")
    assert (line["log_level"], "told" in line["error"]) == (level, True)
    assert [state.connected for state in states] == [False], "it is told and tried again all the same"


def test_a_partition_is_caught_up_with_once_it_is_read_as_far_as_it_went_and_not_when_an_end_is_told():
    told = []

    class Listener:
        def tail_batch(self, batch, positions):
            told.append(("batch", batch, dict(positions)))

        def tail_caught_up(self, place):
            told.append(("caught up", place))

        def tail_state(self, state):
            told.append(("state", state.behind))

    class Looked(Tailer):
        def _partitions(self, consumer, topic):
            return [0, 1]

        def _offsets(self, consumer, place):
            return (3, 3) if place[1] == 0 else (0, 2)

    class Assigned:
        def assign(self, partitions):
            """What is given is read."""

    loop = asyncio.new_event_loop()
    tail = Looked(KafkaOptions("127.0.0.1:1"), [Followed("t", -1)], list, Listener(), loop)
    try:
        tail._assign(Assigned())
        tail._hand_over(["first"], {("t", 1): 1})
        tail._hand_over(["second"], {("t", 1): 2})
        tail._hand_over(["third"], {("t", 1): 3})
        loop.call_soon(loop.stop)
        loop.run_forever()
    finally:
        loop.close()
    assert told == [
        ("batch", [], {("t", 0): 3, ("t", 1): 0}),
        ("caught up", ("t", 0)),
        ("state", {("t", 0): 0, ("t", 1): 2}),
        ("batch", ["first"], {("t", 1): 1}),
        ("batch", ["second"], {("t", 1): 2}),
        ("caught up", ("t", 1)),
        ("batch", ["third"], {("t", 1): 3}),
    ], "each once, behind what it was read with"
