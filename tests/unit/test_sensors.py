"""Faust's own sensors are kept: its monitor counts, and a sensor of a user's hears of rebalances."""

from __future__ import annotations

import faust
import pytest
from faust.sensors import Monitor, Sensor
from faust.types import TP

from pipelines.sensors import Sensors
from state.checkpoint import SourcePartition, UnitResult

SOURCE = SourcePartition("streams.input.v1", 2)


class Heard(Sensor):
    def __init__(self):
        super().__init__()
        self.calls = []

    def on_commit_initiated(self, consumer):
        self.calls.append("commit")

    def on_commit_completed(self, consumer, state):
        self.calls.append("committed")

    def on_rebalance_start(self, app):
        self.calls.append("start")
        return {}

    def on_rebalance_return(self, app, state):
        self.calls.append("return")

    def on_rebalance_end(self, app, state):
        self.calls.append("end")


@pytest.fixture
def app():
    app = faust.App("sensed", broker="sluicegate://127.0.0.1:9", store="memory://")
    app.not_ready = lambda: app.waits_for
    app.sensors.add(app.monitor)  # as Faust does at the start
    app.waits_for = "2 partitions are being restored"
    return app


def test_the_monitor_counts_what_units_of_work_commit(app):
    sensors = Sensors(app)
    result = UnitResult(1, {SOURCE: 30}, {SOURCE: 130}, appended=7, append_s=0.01, commit_s=0.02)
    for _ in range(2):
        sensors.commit_began()
        sensors.committed(result)
    monitor = app.monitor
    assert (monitor.messages_received_total, monitor.events_total, monitor.messages_sent) == (60, 60, 14)
    assert monitor.messages_received_by_topic == {"streams.input.v1": 60}
    assert monitor.tp_committed_offsets == {TP("streams.input.v1", 2): 130}
    assert len(monitor.commit_latency) == 2
    assert all(0 <= latency < 60 for latency in monitor.commit_latency)


def test_every_sensor_hears_of_commits_and_monitors_of_ones_own_count_too(app):
    heard, own, sensors = Heard(), Monitor(), Sensors(app)
    app.sensors.add(heard)
    app.sensors.add(own)
    result = UnitResult(1, {SOURCE: 30}, {SOURCE: 130}, appended=7)
    sensors.commit_began()  # aborted
    sensors.commit_began()
    sensors.committed(result)
    assert heard.calls == ["commit", "commit", "committed"]
    assert (
        (own.events_total, own.messages_sent)
        == (app.monitor.events_total, app.monitor.messages_sent)
        == (30, 7)
    )
    assert len(own.commit_latency) == 1


def test_a_sensor_that_is_added_between_a_commits_begin_and_its_end_is_told_of_the_next(app):
    late, sensors = Heard(), Sensors(app)
    result = UnitResult(1, {SOURCE: 30}, {SOURCE: 130})
    sensors.commit_began()
    app.sensors.add(late)
    sensors.committed(result)
    sensors.commit_began()
    sensors.committed(result)
    assert late.calls == ["commit", "committed"]


def test_a_sensor_hears_of_a_rebalance_from_its_begin_until_all_is_restored(app):
    heard, sensors = Heard(), Sensors(app)
    app.sensors.add(heard)
    sensors.rebalance_began()
    sensors.assigned()
    sensors.settle()
    assert heard.calls == ["start", "return"]
    app.waits_for = None
    sensors.settle()
    sensors.settle()
    assert heard.calls == ["start", "return", "end"]
    assert app.monitor.rebalances == 1
