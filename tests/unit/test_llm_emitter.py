"""Deltas as events: when they go out, what is joined, and what is not."""

from __future__ import annotations

import pytest

from connectors.llm.deltas import Media, Piece
from connectors.llm.emitter import SOURCE, Emitter
from connectors.llm.ledger import Attempt
from connectors.llm.options import FlushOptions
from connectors.llm.request import Envelope
from schemas.catalog import LocalSchemas
from schemas.envelope import check_event
from schemas.payloads import PayloadCodec
from schemas.wire import WireCodec

TO = Envelope("acme", "answer-1", "llm", "req-1", "task-1", "", 1_000, opened=False)


class Timer:
    """What a loop gives for a call that is due later."""

    def __init__(self, call):
        self.call = call
        self.cancelled = False

    def cancel(self):
        """See asyncio."""
        self.cancelled = True


class Loop:
    """A loop whose timers a test fires."""

    def __init__(self):
        self.timers = []

    def call_later(self, delay_s, call):
        """See asyncio; what is asked for is the next of the ticks at which all answers flush."""
        assert 0 < delay_s <= 0.04
        self.timers.append(Timer(call))
        return self.timers[-1]

    def fire(self):
        """Do what is due."""
        due, self.timers = [timer for timer in self.timers if not timer.cancelled], []
        for timer in due:
            timer.call()


class World:
    """An emitter, and the events that it sent."""

    def __init__(self):
        self.wire, self.payloads = WireCodec(LocalSchemas()), PayloadCodec(LocalSchemas())
        self.events = []
        self.loop = Loop()
        self.emitter = Emitter(TO, 3, self, self.wire, self.payloads, FlushOptions(), self.loop)

    def send(self, key, value, partition):
        """See Outlet."""
        assert (key, partition) == (b"acme/answer-1", 3)
        self.events.append(self.wire.decode_event(value))

    def said(self):
        """The types and payloads of what was sent."""
        return [
            (event.type, self.payloads.decode(event.payload_schema, event.payload)) for event in self.events
        ]

    def texts(self):
        """The texts of tokens that were sent."""
        return [fields["text"] for type_name, fields in self.said() if type_name == "token"]


@pytest.fixture
def world():
    return World()


def begin(world, number=1):
    """Begin with an attempt."""
    world.emitter.begin(Attempt(tenant="acme", stream_id="answer-1", kind="llm", attempt=number, epoch=0))


def test_the_first_content_goes_out_at_once_and_what_follows_in_one_event_when_its_time_is_over(world):
    begin(world)
    for text in ("A", "B", "C"):
        world.emitter.piece(Piece("text", text))
    assert world.texts() == ["A"]
    world.loop.fire()
    assert world.texts() == ["A", "BC"]
    world.loop.fire()
    assert world.texts() == ["A", "BC"]


def test_a_kibibyte_does_not_wait_for_the_time(world):
    begin(world)
    world.emitter.piece(Piece("text", "A"))
    world.emitter.piece(Piece("text", "x" * 600))
    world.emitter.piece(Piece("text", "y" * 600))
    assert world.texts() == ["A", "x" * 600 + "y" * 600]


def test_a_kibibyte_is_one_of_utf_8(world):
    world.emitter.piece(Piece("text", "a"))
    for _ in range(3):
        world.emitter.piece(Piece("text", "水" * 114))
    assert len(world.events) == 2, "1,026 bytes, of 342 characters"


@pytest.mark.parametrize(
    "other",
    [Piece("reasoning", "R"), Piece("text", "R", index=1), Piece("tool", "R", call_id="c", tool="find")],
    ids=["channel", "index", "call"],
)
def test_another_block_ends_the_gathering_and_is_never_joined(world, other):
    begin(world)
    for piece in (Piece("text", "A"), Piece("text", "B"), other, Piece("text", "C")):
        world.emitter.piece(piece)
    world.emitter.flush()
    assert world.texts() == ["A", "B", "R", "C"]
    said = world.said()[2][1]
    assert (said["channel"], said["index"], said["call_id"], said["tool"]) == (
        other.channel, other.index, other.call_id, other.tool,
    )  # fmt: skip


def test_every_token_is_as_if_it_was_written_by_itself(world):
    begin(world)
    pieces = [
        Piece("text", "A"),
        Piece("text", "é→水 " * 20),
        Piece("text", "x" * 70_000),
        Piece("tool", "{}", index=2, call_id="c", tool="find"),
        Piece("tool", '{"a":1}', index=2, call_id="c", tool="find"),
    ]
    for number, piece in enumerate(pieces):
        if number == 2:
            world.emitter.named("call-9")
        world.emitter.piece(piece)
        world.emitter.flush()
    world.emitter.reset("again")
    world.emitter.piece(Piece("text", "B"))
    world.emitter.flush()
    tokens = [event for event in world.events if event.type == "token"]
    assert world.texts() == [piece.text for piece in pieces] + ["B"]
    assert [event.upstream_id for event in tokens] == ["", "", "call-9", "call-9", "call-9", "call-9"]
    assert [(event.epoch, event.event_id) for event in tokens[-2:]] == [(0, "0.4"), (1, "1.1")]
    for event in tokens:
        fields = world.payloads.decode(event.payload_schema, event.payload)
        assert world.payloads.encode("token", fields) == (event.payload, event.payload_schema)


def test_all_that_gathered_goes_before_media_usage_and_the_end(world):
    begin(world)
    for text in ("A", "B"):
        world.emitter.piece(Piece("text", text))
    world.emitter.media(Media("image/png", 0, data=b"png"))
    world.emitter.piece(Piece("text", "C"))
    world.emitter.data("usage", {"provider": "p"})
    world.emitter.piece(Piece("text", "D"))
    world.emitter.flush()
    end = world.wire.decode_event(world.emitter.end("completed", ""))
    assert [type_name for type_name, _ in world.said()] == [
        "token", "token", "media", "token", "usage", "token",
    ]  # fmt: skip
    assert world.payloads.decode(end.payload_schema, end.payload)["reason"] == "completed"
    assert (end.seq, end.epoch, end.source) == (-1, 0, SOURCE)


def test_a_reset_forgets_what_gathered_and_names_the_events_after_it_anew(world):
    begin(world)
    world.emitter.piece(Piece("text", "A"))
    world.emitter.piece(Piece("text", "superseded"))
    world.emitter.raise_epoch(1)
    world.emitter.reset("another attempt")
    begin(world, 2)
    world.emitter.piece(Piece("text", "B"))
    world.loop.fire()
    assert world.texts() == ["A", "B"]
    assert [(event.type, event.epoch, event.attempt) for event in world.events] == [
        ("token", 0, 0), ("reset", 2, 0), ("token", 2, 1),
    ]  # fmt: skip
    assert world.said()[1][1] == {"from_seq": 1, "reason": "another attempt"}
    assert len({event.event_id for event in world.events}) == 3


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("req\n1", "req1"),
        ("é" * 200, "é" * 128),
        ("a\tb", "ab"),
        ("x" * 9_000, "x" * 256),
        ("\x00" * 900, ""),
    ],
    ids=["line", "bytes", "tab", "long", "nothing"],
)
def test_a_providers_name_is_one_that_ingest_takes(world, said, named):
    begin(world)
    world.emitter.named(said)
    world.emitter.piece(Piece("text", "A"))
    (event,) = world.events
    assert event.upstream_id == named
    check_event(event._replace(seq=1))


def test_a_stream_is_opened_once_by_whoever_asked_or_by_the_worker(world):
    world.emitter.open()
    world.emitter.open()
    assert [event.event_id for event in world.events] == ["open", "open"], (
        "ingest takes the second for the first"
    )
    assert world.events[0].time == TO.time_us
