"""What is told to topics without anybody waiting: bounded, in order, and counted where it is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from connectors.kafka.clients import Clients
from connectors.kafka.notices import Notices
from connectors.kafka.options import KafkaOptions
from schemas.catalog import LocalSchemas
from schemas.errors import RegistryUnavailable
from schemas.topics import PRESSURE
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from collections.abc import Callable

FIELDS = {"tenant": "acme", "stream_id": "s", "kind": "job", "edge": "e", "subscribers": 2, "behind": 1}
CODEC = WireCodec(LocalSchemas())


class Broker:
    """As much of a producer as is used; takes a record, refuses it, or has no room."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, bytes, bytes | None]] = []
        self.no_room = self.refuses = False

    def __call__(self, config: dict[str, Any]) -> Broker:
        assert config["enable.idempotence"]
        return self

    def produce(self, topic: str, value: bytes | None, key: bytes, on_delivery: Callable[..., None]) -> None:
        if self.no_room:
            raise BufferError("queue full")
        if not self.refuses:
            self.taken.append((topic, key, value))
        on_delivery("refused" if self.refuses else None, None)

    def poll(self, _timeout: float) -> int:
        return 0

    def flush(self, _timeout: float) -> int:
        return 0


def notices(broker: Broker, codec: Any = CODEC, **bounds: int) -> Notices:
    kafka = KafkaOptions("none:1", topic_prefix="p.", clients=Clients(producer=broker))
    return Notices(kafka, codec, **bounds)


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_records_and_tombstones_are_told_in_order_and_what_is_left_at_the_close():
    broker = Broker()
    told = notices(broker)
    told.start()
    told.tell(PRESSURE, b"a", FIELDS)
    until(lambda: told.told == 1)
    told.tell(PRESSURE, b"a", None)
    told.tell(PRESSURE, b"b", FIELDS)
    told.close()
    assert [(topic, key) for topic, key, _ in broker.taken] == [
        ("p.edge.pressure.v1", b"a"), ("p.edge.pressure.v1", b"a"), ("p.edge.pressure.v1", b"b"),
    ]  # fmt: skip
    first, second, _ = (value for _, _, value in broker.taken)
    assert CODEC.decode(first or b"", PRESSURE.subject) == FIELDS
    assert second is None
    assert (told.told, told.dropped) == (3, 0)


def test_what_does_not_fit_or_is_not_taken_is_counted_and_nobody_fails():
    broker = Broker()
    told = notices(broker, waiting_max=3)
    for _ in range(5):
        told.tell(PRESSURE, b"a", FIELDS)
    assert told.dropped == 2
    broker.no_room = True
    told.start()
    until(lambda: told.dropped == 5)
    broker.no_room, broker.refuses = False, True
    told.tell(PRESSURE, b"a", FIELDS)
    until(lambda: told.dropped == 6)
    broker.refuses = False
    told.tell(PRESSURE, b"a", {"no such": "field"})
    told.tell(PRESSURE, b"a", FIELDS)
    until(lambda: told.told == 1)
    assert told.dropped == 7
    told.close()


def test_a_registry_that_is_away_is_waited_for_and_loses_nothing():
    class Away(WireCodec):
        tries = 0

        def encode(self, subject: str, record: Any) -> bytes:
            self.tries += 1
            if self.tries == 1:
                raise RegistryUnavailable("http://none", "away")
            return super().encode(subject, record)

    broker = Broker()
    told = notices(broker, Away(LocalSchemas()))
    told.start()
    told.tell(PRESSURE, b"a", FIELDS)
    told.tell(PRESSURE, b"b", FIELDS)
    until(lambda: told.told == 2)
    told.close()
    assert [key for _, key, _ in broker.taken] == [b"a", b"b"]
    assert told.dropped == 0
