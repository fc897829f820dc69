"""Time on an idle partition: deadlines fall due by ticks that the broker stamps, without any other event."""

from __future__ import annotations

import pytest

from schemas.payloads import PayloadCodec
from schemas.topics import LATE_EVENTS, OUTPUT, USAGE_WINDOWS
from schemas.wire import WireCodec
from tests.support.plain_streams import PlainStreams
from tests.support.read_topic import read_committed
from tests.support.worker_process import WorkerProcess


@pytest.fixture
def streams(kafka_options, topics, registry):
    topics()
    return PlainStreams(kafka_options, WireCodec(registry), PayloadCodec(registry), streams=8)


def test_streams_that_fall_silent_end_as_timed_out_once_each(
    stack, kafka_options, registry, streams, tmp_path
):
    codec, payloads = WireCodec(registry), PayloadCodec(registry)
    worker = WorkerProcess(stack, kafka_options, tmp_path, roles="ingest")
    try:
        streams.publish("open", [{"title": "silent", "idle_timeout_ms": 3_000}])
        streams.lines(3)
        found = [
            codec.decode_event(m.value()) for m in read_committed(kafka_options, OUTPUT, 8 * 5, deadline_s=40)
        ]
        ends = [event for event in found if event.type == "end"]
        assert {event.key for event in ends} == streams.sent.keys()
        assert len(ends) == 8
        for end in ends:
            said = payloads.decode(end.payload_schema, end.payload)
            assert said["reason"] == "timed_out"
            assert "idle" in said["message"]
            assert end.seq == 4
    finally:
        worker.kill()


def test_a_window_of_usage_is_said_though_nothing_follows_it_and_what_is_late_for_one_is_routed(
    stack, kafka_options, registry, streams, tmp_path
):
    codec = WireCodec(registry)
    worker = WorkerProcess(stack, kafka_options, tmp_path, roles="ingest,aggregate")
    try:
        streams.open()
        streams.publish("usage", [{"provider": "north", "model": "m", "calls": 1, "input_tokens": 5}])
        streams.publish("usage", [{"provider": "north", "model": "m", "calls": 1}], ago_s=3_600)
        streams.end()

        def all_counted(messages):
            return sums(messages)[0] >= 8

        def sums(messages):
            latest = {}
            for message in messages:
                window = codec.decode(message.value(), USAGE_WINDOWS.subject)
                if window["tenant"] == streams.tenant and window["provider"] == "north":
                    latest[message.key()] = (window["calls"], window["input_tokens"])
            return tuple(map(sum, zip(*latest.values(), strict=True))) or (0, 0)

        assert sums(read_committed(kafka_options, USAGE_WINDOWS, all_counted, deadline_s=40)) == (8, 40)
        late = [
            codec.decode(message.value(), LATE_EVENTS.subject)
            for message in read_committed(kafka_options, LATE_EVENTS, 8)
        ]
        came = {codec.decode_event(each["value"]).key for each in late}
        assert (len(late), came) == (8, set(streams.sent)), "that of each stream, once"
        assert all(each["watermark_us"] - each["event_time_us"] > 3_000_000_000 for each in late)
    finally:
        worker.kill()
