"""Input as bad as it gets, by a seed: streams that mostly behave, and all that can go wrong with them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.unit.support_scope import CODEC, SECOND_US, START_US, Partition, make_event

if TYPE_CHECKING:
    from random import Random

    from schemas.record import Record

DAY_US = 86_400 * SECOND_US
BROKEN = ("magic", "cut", "empty", "null", "key", "no key", "payload", "kind", "reserved")


@dataclass(frozen=True)
class Sent:
    """One record of the input, before it is bytes."""

    stream: str
    type: str
    seq: int
    number: int
    epoch: int = 0
    at_us: int = START_US
    ahead_us: int = 0
    kind: str = "log"
    broken: str = ""


@dataclass
class Producer:
    """A producer that knows the contract."""

    name: str
    kind: str
    numbered: bool
    sent: int = 0
    epoch: int = 0
    ended: bool = False
    held_back: list[Sent] = field(default_factory=list)

    def next(self, rng: Random, number: int) -> Sent:
        """The next event of a correct stream."""
        seq, self.sent = self.sent if self.numbered else -1, self.sent + 1
        if self.sent == 1:
            type_ = "open"
        else:
            type_ = rng.choices(["log", "usage", "end", "reset", "cancel"], [70, 8, 7, 3, 3])[0]
        self.ended = type_ == "end"
        self.epoch += type_ == "reset"
        return Sent(self.name, type_, seq, number, self.epoch, kind=self.kind)


def hostile_input(rng: Random, length: int) -> list[Sent]:
    """Records of three streams with repeats, holes, overtaking, clocks that lie, and garbage."""
    producers: dict[str, Producer] = {}
    done: list[Sent] = []
    clock_us = START_US
    while len(done) < length:
        jumps = [0, 1, SECOND_US, 4 * SECOND_US, 13 * SECOND_US, 2_000 * SECOND_US, 2 * DAY_US]
        clock_us += rng.choices(jumps, [40, 30, 15, 6, 3, 1, 2])[0]
        ahead_us = rng.choices([0, -3_600 * SECOND_US, 30 * SECOND_US, 10**15], [90, 4, 4, 2])[0]
        name = rng.choice("abc")
        producer = producers.get(name)
        if producer is None or (producer.ended and rng.random() < 0.4):
            kind = rng.choice(["log", "log", "chat"])
            producer = producers[name] = Producer(name, kind, numbered=rng.random() < 0.65)
        item = _one(rng, producer, done, len(done))
        if item is not None:
            done.append(replace(item, at_us=clock_us, ahead_us=ahead_us))
    return done


def _one(  # noqa: PLR0911 - one return a choice
    rng: Random, producer: Producer, done: list[Sent], number: int
) -> Sent | None:
    what = rng.choices(
        ["next", "hold", "release", "repeat", "skip", "garbage", "broken", "tick"],
        [64, 7, 9, 6, 2, 6, 3, 4],
    )[0]
    if what == "hold":
        producer.held_back.append(producer.next(rng, number))
        return None
    if what == "release" and producer.held_back:
        return producer.held_back.pop(rng.randrange(len(producer.held_back)))
    if what == "repeat" and done:
        return rng.choice(done)
    if what == "skip":
        producer.sent += rng.randint(1, 3)
    if what == "garbage":
        type_ = rng.choice(["open", "log", "end", "cancel", "reset"])
        epoch = rng.choice([0, producer.epoch, producer.epoch + 1])
        return Sent(
            producer.name, type_, rng.randint(-1, producer.sent + 3), number, epoch, kind=producer.kind
        )
    if what == "broken":
        return replace(producer.next(rng, number), broken=rng.choice(BROKEN))
    if what == "tick":
        return Sent(producer.name, "tick", -1, number)
    return producer.next(rng, number)


def as_records(partition: Partition, sent: list[Sent]) -> list[Record]:
    """The input as the broker has it."""
    return [_record(partition, item) for item in sent]


def _record(partition: Partition, item: Sent) -> Record:
    event = make_event(
        "log" if item.broken == "reserved" else item.type,
        item.seq, stream=item.stream, epoch=item.epoch, kind="nope" if item.broken == "kind" else item.kind,
        event_id=f"{item.stream}{item.number}", time=max(item.at_us + item.ahead_us, 0),
    )  # fmt: skip
    if item.broken == "reserved":
        event = event._replace(type="gap")
    if item.broken == "payload":
        event = event._replace(payload=b"\xff")
    key: bytes | None = {"key": b"default/other", "no key": None}.get(item.broken, event.key)
    data = CODEC.encode_event(event)
    value = {"magic": b"\x07" + data, "cut": data[:-3], "empty": b"", "null": None}.get(item.broken, data)
    return partition.raw(key, value, item.at_us)


def mix(sent: list[Sent]) -> Counter[str]:
    """What an input is made of, to show that it holds what it is meant to hold."""
    return Counter(item.broken or item.type for item in sent)
