"""A run of our own ingest under fault: its streams are recorded, and judged by the ledger's checker.

What ingest makes of well-formed streams is what the ledger makes of entries without amounts: each event once,
in the order of its stream, with the stream's count (seq + 1); a record that cannot be read is a dead letter.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from schemas.envelope import TICK
from schemas.topics import DEAD_LETTERS, INPUT, OUTPUT, REJECTS
from schemas.wire import FRAME_BYTES
from tests.faults.checker import check
from tests.faults.grouplog import commits_of
from tests.faults.history import FaultEnd, History, Outcome
from tests.faults.ledger import Entry, Input
from tests.faults.reading import read_all
from tests.faults.watch import Watch
from tests.support.cutting import ends_of
from tests.support.plain_streams import PlainStreams

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from confluent_kafka import Message

    from connectors.kafka.options import KafkaOptions
    from schemas.payloads import PayloadCodec
    from schemas.topics import TopicSpec
    from schemas.wire import WireCodec
    from tests.faults.judgement import Violation
    from tests.faults.ledger import Kind

GROUP = "sluicegate.ingest"


class RecordedStreams(PlainStreams):
    """Streams whose order comes from the seed, and what ingest made of them."""

    def __init__(self, kafka: KafkaOptions, codec: WireCodec, payloads: PayloadCodec, seed: int) -> None:
        super().__init__(kafka, codec, payloads)
        self.rng = random.Random(seed)
        self.history = History()
        self.unreadable: set[bytes] = set()
        """Keys of the records that nobody can read."""
        self.schema_id = 0
        """Of the event schema of another producer, which says the same; 0 = ours."""
        self._group = f"{kafka.topic_prefix}{GROUP}"
        self._watch = Watch(kafka, self._group, INPUT)
        self._watch.start()

    def publish(self, type_: str, payloads: Sequence[dict[str, object]], *, ago_s: int = 0) -> None:
        """As of a plain one, the streams in another order each time."""
        self.rng.shuffle(self._names)
        super().publish(type_, payloads, ago_s=ago_s)

    def produce(self, key: bytes, value: bytes) -> None:
        """As of a plain one, under ``schema_id``."""
        framed = b"\x00" + self.schema_id.to_bytes(4, "big") + value[FRAME_BYTES:]
        super().produce(key, framed if self.schema_id else value)

    def publish_unreadable(self, values: Sequence[bytes]) -> None:
        """Send records that must become dead letters, in an order from the seed."""
        for value in self.rng.sample(values, len(values)):
            key = b"default/unreadable-%d" % len(self.unreadable)
            self.unreadable.add(key)
            self.produce(key, value)
        assert self._producer.flush(60) == 0

    def fault_ended(self, what: str) -> None:
        """Note that nothing keeps ingest from its recovery any more (I7)."""
        self.history.faults.append(FaultEnd(what, time.time()))

    def check(self, deadline_s: float = 90.0) -> None:
        """Wait until all is committed; then every invariant holds of what is recorded."""
        found = self.violations(deadline_s)
        assert not found, "\n".join(map(str, found))

    def violations(self, deadline_s: float = 90.0) -> list[Violation]:
        """Wait until all is committed, record it, and judge."""
        deadline = time.monotonic() + deadline_s
        while self._watch.look() < sum(ends_of(self.kafka, INPUT)):
            assert time.monotonic() < deadline, f"{self._watch.look()} of the input are committed, no more"
            time.sleep(0.2)
        self.record()
        sent = sum(map(len, self.sent.values())) + len(self.unreadable)
        assert len(self.history.acknowledged) == sent, "Kafka did not acknowledge the load"
        return check(self.history)

    def record(self) -> None:
        """Read what Kafka says."""
        history, name = self.history, INPUT.named(self.kafka.topic_prefix)
        history.acknowledged = self.acknowledged
        history.commits = [
            replace(each, at_s=self._watch.seen_s(name, each.partition, each.offset))
            for each in commits_of(self.kafka, self._group, [name])[name]
        ]
        history.ends = dict(enumerate(ends_of(self.kafka, INPUT)))  # behind the commits: ticks go on
        read = [self._input(message) for message in read_all(self.kafka, INPUT)]
        history.inputs = [given for given in read if given is not None]
        sources = {given.entry.event_id: given.offset for given in history.inputs if given.entry}
        history.outcomes = [self._output(message, sources) for message in read_all(self.kafka, OUTPUT)]
        history.outcomes += self._left_out()

    def _input(self, message: Message) -> Input | None:
        """None = ingest's own tick, of which nothing comes."""
        key, at_s = message.key() or b"", message.timestamp()[1] / 1_000
        where = (message.partition() or 0, message.offset() or 0)
        if key in self.unreadable:
            return Input(*where, None, at_s)
        event = self._codec.decode_event(message.value() or b"")
        if event.type == TICK:
            return None
        return Input(*where, Entry(event.event_id, event.key, event.seq, 0, 0), at_s)

    def _output(self, message: Message, sources: dict[str, int]) -> Outcome:
        event = self._codec.decode_event(message.value() or b"")
        where = (message.partition() or 0, sources.get(event.event_id, -1), message.offset() or 0)
        return Outcome("output", *where, None, event.event_id, event.key, event.seq + 1)

    def _told(self, topic: TopicSpec) -> Iterator[tuple[dict[str, Any], int]]:
        for message in read_all(self.kafka, topic):
            said = self._codec.decode(message.value() or b"", topic.subject)
            if said["topic"] == INPUT.named(self.kafka.topic_prefix):
                yield said, message.offset() or 0

    def _left_out(self) -> Iterator[Outcome]:
        for letter, offset in self._told(DEAD_LETTERS):
            yield Outcome("dead", letter["partition"], letter["offset"], offset)
        for reject, offset in self._told(REJECTS):
            kind: Kind = "duplicate" if reject["verdict"] == "duplicate" else "late"
            yield Outcome(kind, reject["partition"], reject["offset"], offset)

    def close(self) -> None:
        """Look no more."""
        self._watch.close()
