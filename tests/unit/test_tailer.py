"""What a tail says of errors: those of topics that were just made pass by themselves."""

from __future__ import annotations

import asyncio

import pytest
from confluent_kafka import KafkaError, KafkaException
from structlog.testing import capture_logs

from connectors.kafka import tailer
from connectors.kafka.options import KafkaOptions
from connectors.kafka.tailer import Tailer

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
