"""What all streams together may hold: kept to from the stream on that was silent longest."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from edge.channel import Channel
from edge.encode import FrameJson
from edge.frame import frame_of
from edge.hub import SWEEP_STEPS, Hub, HubBounds
from edge.sse import SseEncoder
from edge.subscriber import Subscriber
from schemas.catalog import LocalSchemas
from schemas.payloads import PayloadCodec
from tests.unit.support_replay import EVENT, a_flusher

if TYPE_CHECKING:
    from edge.frame import Frame
    from edge.ring import Ring

AGE_MS = 1_000
FRAME_BYTES = 10_000


class Looked(Channel):
    """A channel that counts how often its ring is looked at."""

    looks = 0

    @property
    def ring(self) -> Ring:
        Looked.looks += 1
        return self._ring

    @ring.setter
    def ring(self, ring: Ring) -> None:
        self._ring = ring


class Streams:
    """A hub whose rings may hold about so many events together."""

    def __init__(self, events: int) -> None:
        one = self._frame(b"default/any", 0, 0, 0)
        self.hub = Hub(HubBounds(1_000, 1 << 30, AGE_MS, events * one.size_bytes), a_flusher())
        self.seqs: OrderedDict[bytes, int] = OrderedDict()
        """The last of each stream; what was silent longest first."""
        self.offset = 0
        self.now_ms = 0

    def emit(self, *keys: bytes) -> None:
        """Put an event into each, in one batch."""
        batch = []
        for key in keys:
            self.seqs[key] = self.seqs.pop(key, -1) + 1
            batch.append((key, self._frame(key, self.seqs[key], self.offset, self.now_ms)))
            self.offset += 1
        self.hub.publish(batch)

    def follow(self, key: bytes) -> Subscriber:
        subscriber = Subscriber(self.hub.channel(key), expect=0, next_offset=-1, name="t")
        self.hub.attach(subscriber)
        return subscriber

    @staticmethod
    def _frame(key: bytes, seq: int, offset: int, read_ms: int) -> Frame:
        event = EVENT._replace(stream_id=key.decode().partition("/")[2], seq=seq, payload=b"x" * FRAME_BYTES)
        return frame_of(event, topic_version=1, partition=0, offset=offset, read_ms=read_ms)


def test_a_batch_beyond_the_bound_looks_at_no_stream_that_holds_nothing(monkeypatch):
    streams = Streams(events=20)
    monkeypatch.setattr("edge.hub.Channel", Looked)
    for number in range(300):
        streams.follow(b"default/idle-%d" % number)
    monkeypatch.undo()
    for number in range(20):
        streams.emit(b"default/busy-%d" % (number % 5))
    Looked.looks = 0
    for number in range(50):
        streams.emit(b"default/busy-%d" % (number % 5))
    assert streams.hub.evicted_events == 50
    assert Looked.looks == 0


def test_what_was_silent_longest_is_let_go_of_first():
    streams = Streams(events=3)
    streams.emit(b"default/a", b"default/b")
    streams.emit(b"default/a")
    streams.emit(b"default/c")  # one too many: b was silent longest
    assert [streams.hub.get(key) is not None for key in (b"default/a", b"default/b", b"default/c")] == [
        True,
        False,
        True,
    ]


def test_a_sweep_looks_at_no_stream_whose_events_are_not_too_old(monkeypatch):
    streams = Streams(events=10_000)
    monkeypatch.setattr("edge.hub.Channel", Looked)
    for number in range(1_000):
        streams.emit(b"default/%d" % number)
        streams.follow(b"default/idle-%d" % number)
    monkeypatch.undo()
    while streams.hub.sweep(0):  # whom it made channels for: they came
        pass
    Looked.looks = 0
    for now_ms in range(0, AGE_MS, 100):
        assert not streams.hub.sweep(now_ms)
    assert Looked.looks == 0
    assert len(streams.hub) == 2_000


def test_a_sweep_of_many_that_are_too_old_is_cut_into_turns_of_the_loop():
    streams = Streams(events=10_000)
    many, of_one = 3 * SWEEP_STEPS, 2 * SWEEP_STEPS  # as many as a ring holds here
    streams.emit(*(b"default/%d" % number for number in range(many)))
    for _ in range(of_one):
        streams.emit(b"default/busy")
    hub, turns, left = streams.hub, 0, [many + of_one]
    while hub.sweep(1 << 60):
        turns += 1
        left.append(sum(len(channel.ring) for channel in hub._channels.values()))
        assert left[-2] - left[-1] <= SWEEP_STEPS
    assert len(hub) == hub.bytes == 0
    assert turns >= 5


def test_a_sweep_lets_a_busy_stream_keep_what_is_not_too_old_and_goes_on_with_it_later():
    streams = Streams(events=10_000)
    for _ in range(100):
        streams.emit(b"default/a")
        streams.now_ms += AGE_MS // 10
        streams.hub.sweep(streams.now_ms)
    channel = streams.hub.get(b"default/a")
    assert channel is not None
    assert 9 <= len(channel.ring) <= 21  # what is too old goes within a second
    streams.hub.sweep(streams.now_ms + 3 * AGE_MS)
    assert streams.hub.get(b"default/a") is None


def test_a_stream_whose_events_are_gone_holds_no_write_of_them_for_who_follows_it():
    streams = Streams(events=10_000)
    streams.follow(b"default/s")
    streams.emit(b"default/s")
    channel = streams.hub.get(b"default/s")
    assert channel is not None
    group = channel.group(SseEncoder(FrameJson(PayloadCodec(LocalSchemas()))), 0)
    assert group.encoded(channel.ring.span(0, 1 << 20)) is group._bytes
    streams.hub.sweep(10 * AGE_MS)
    assert (len(channel.ring), group._bytes) == (0, b"")


def test_a_channel_that_was_made_for_somebody_who_never_came_goes_again():
    streams = Streams(events=8)
    streams.hub.channel(b"default/a")
    came = streams.follow(b"default/b")
    streams.hub.sweep(0)
    assert streams.hub.get(b"default/a") is None
    assert streams.hub.get(b"default/b") is came.channel
    streams.hub.detach(came)
    assert len(streams.hub) == 0


NAMES = st.sampled_from([b"default/%d" % number for number in range(6)])


@given(
    st.lists(
        st.tuples(st.just("emit"), st.lists(NAMES, min_size=1, max_size=4))
        | st.tuples(st.sampled_from(["follow", "leave", "forget", "again"]), NAMES)
        | st.tuples(st.just("age"), st.integers(1, 2 * AGE_MS)),
        min_size=10,
        max_size=60,
    )
)
def test_whatever_comes_and_goes_the_rings_are_under_their_bound_and_nothing_is_held_in_vain(steps):
    streams, following = Streams(events=8), []
    hub, bound = streams.hub, streams.hub._bounds.rings_bytes_max
    for step, what in steps:
        if step == "emit":
            streams.emit(*dict.fromkeys(what))
        elif step == "follow":
            following.append(streams.follow(what))
        elif step == "leave":
            for one in [one for one in following if one.channel.key == what]:
                following.remove(one)
                hub.detach(one)
        elif step == "forget":
            streams.seqs.pop(what, None)
            if (channel := hub.get(what)) is not None and len(channel.ring):
                channel.end_seq = channel.ring.next_seq - 1
            hub.forget(what)
        elif step == "again" and what in streams.seqs:  # the tail reads an event again that it has read
            hub.publish([(what, streams._frame(what, streams.seqs[what], 0, streams.now_ms))])
            streams.seqs.move_to_end(what)
        elif step == "age":
            streams.now_ms += what
            hub.sweep(streams.now_ms)
            oldest = [channel.ring.oldest.read_ms for channel in hub._holding.values()]
            assert all(read_ms > streams.now_ms - AGE_MS - 1_000 for read_ms in oldest)
        ageing = [channel for there in hub._ageing._slots.values() for channel in there]
        assert {channel.key: channel for channel in ageing} == hub._holding
        held = {key: channel for key, channel in hub._channels.items() if len(channel.ring)}
        assert hub._holding == held
        assert list(hub._holding) == [key for key in streams.seqs if key in held]
        assert hub.bytes == sum(channel.ring.bytes for channel in held.values()) <= bound
