"""One scenario for both: an agent on Kafka in memory, and the same on the real parts.

What comes of it is returned as plain values, so that the two can be compared; nothing in it depends on where
units of work end, which is a matter of time on a real broker.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from pipelines.extension import Extension
from schemas.errors import SluicegateError
from schemas.topics import LATE_EVENTS, TopicSpec
from state.sessions import SessionOptions, SessionWindows
from state.watermark import Watermark
from state.windows import TimeWindows, WindowOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipelines.testing import AgentDriver

PARTITIONS = 2
SUBJECT = "twin.Reading"


def schema(*fields: dict[str, Any]) -> str:
    return json.dumps({"type": "record", "namespace": "twin", "name": "Reading", "fields": list(fields)})


SENSOR, AMOUNT = {"name": "sensor", "type": "string"}, {"name": "amount", "type": "long"}
UNIT = {"name": "unit", "type": "string", "default": "kWh"}
SCHEMA = schema(SENSOR, AMOUNT, UNIT)
WITHOUT_UNIT = schema(SENSOR, {"name": "amount", "type": "int"})
WITH_NOTE = schema(SENSOR, AMOUNT, UNIT, {"name": "note", "type": "string"})


def topic(name: str, subject: str = "", cleanup: Any = "delete", bytes_max: int = 4_096) -> TopicSpec:
    return TopicSpec(name, "key", subject, PARTITIONS, -1, cleanup, name, bytes_max)


READINGS, ROWS = topic("twin.readings.v1", SUBJECT), topic("twin.rows.v1", SUBJECT)
EVENTS = topic("twin.events.v1", "sluicegate.Event")
EACH, TOTALS = topic("twin.each.v1"), topic("twin.totals.v1", cleanup="compact")
SUMS, CLOSED = topic("twin.sums.v1"), topic("twin.closed.v1")
CHANGELOGS = {
    name: topic(f"twin.{name}.changelog.v1", cleanup="compact") for name in ("counter", "sums", "windows")
}
COUNT = struct.Struct(">q")
MINUTES = TimeWindows(b"m", WindowOptions(window_ms=60_000, grace_ms=5_000, ttl_ms=600_000))
VISITS = SessionWindows(b"v", SessionOptions(gap_ms=30_000, grace_ms=0))
DISORDER_US = 2_000_000
HEADERS = (("trace", b"\x00\xff"), ("é", b""), ("trace", b"again"), ("null", None))


class Away(SluicegateError):
    """Passes by itself."""

    transient = True
    remedy = "Wait."


class Counter:
    """An event agent: a count a key, told each time and as a total; stumbles as its values say."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def handle(self, scope: Any, record: Any, row: dict[str, Any]) -> None:
        n = COUNT.unpack(scope.state.get(record.key) or bytes(8))[0] + 1
        scope.state.put(record.key, COUNT.pack(n))
        scope.emit(EACH, record.key, b"%d" % n, partition=scope.partition, headers=record.headers)
        scope.update(TOTALS, record.key, b"%d" % n)
        scope.count("counted")
        note, failures = row["unit"], self.seen.get(row["unit"], 0)
        self.seen[note] = failures + 1
        if note == "poison" or (note == "stumble" and not failures):
            raise ValueError(note)
        if note == "away" and failures < 2:
            raise Away("it is away")
        if note == "huge":
            scope.emit(EACH, record.key, bytes(5_000))
        if note == "forget":
            scope.state.delete(record.key)
            scope.update(TOTALS, record.key, None)


def sum_up(batch: Any) -> None:
    """A batch agent of columns: sums by sensor; a row of no amount fails."""
    for row, headers in zip(batch.columns.to_pylist(), batch.headers(), strict=True):
        if row["amount"] == 0:
            raise ValueError("no amount")
        key = row["sensor"].encode()
        total = COUNT.unpack(batch.scope.state.get(key) or bytes(8))[0] + row["amount"]
        batch.scope.state.put(key, COUNT.pack(total))
        batch.scope.emit(
            SUMS, key, b"%d %s" % (total, row["unit"].encode()), partition=batch.partition, headers=headers
        )
        batch.scope.count("summed")


def window(scope: Any, items: Any) -> None:
    """A batch agent of events: minutes and sessions, closed by event time or by a tick."""
    clock = Watermark(DISORDER_US)
    clock.load(scope.state, b"c")
    for record, event in items:
        if isinstance(event, Exception):
            scope.dead_letter(record, type(event).__name__, "no event")
            scope.count("dead_letter")
            continue
        if event.type == "tick":
            clock.tick(record.timestamp_us)
        else:
            clock.see(event.time, record.timestamp_us)
            taken = MINUTES.add(
                scope.state, event.time, event.key, clock.now_us, lambda old: b"%d" % (int(old or 0) + 1)
            )
            VISITS.add(
                scope.state, event.time, event.key, clock.now_us, lambda old: b"%d" % (sum(map(int, old)) + 1)
            )
            if taken:
                scope.count("windowed")
            else:
                scope.late(record, time_us=event.time, watermark_us=clock.now_us)
        for closed in MINUTES.closed(scope.state, clock.now_us, 100):
            scope.emit(CLOSED, closed.key, b"minute %d %s" % (closed.start_us, closed.value))
        for visit in VISITS.closed(scope.state, clock.now_us, 100):
            scope.emit(CLOSED, visit.key, b"visit %d %s" % (visit.start_us, visit.value))
    clock.save(scope.state, b"c")


def due(state: Any) -> int | None:
    closes = [at for at in (MINUTES.next_close_us(state), VISITS.next_close_us(state)) if at is not None]
    return min(closes) + DISORDER_US if closes else None


def extension() -> Extension:
    counter = Counter()

    def register(app: Any, tools: Any, _options: Any) -> None:
        rows, columns = tools.decoder(SUBJECT), tools.columns(SUBJECT)

        @app.agent(app.source(READINGS, agent="counter", decode=rows, changelog=CHANGELOGS["counter"]))
        async def count(stream: Any) -> None:
            async for row in stream:
                counter.handle(stream.scope, stream.record, row)

        @app.agent(app.source(ROWS, agent="sums", columns=columns, changelog=CHANGELOGS["sums"]))
        async def sums(stream: Any) -> None:
            async for batch in stream.record_batches():
                sum_up(batch)

        source = app.source(
            EVENTS, agent="windows", decode=tools.decode_events, changelog=CHANGELOGS["windows"],
            open_deadline=due, late_to=LATE_EVENTS,
        )  # fmt: skip

        @app.agent(source)
        async def windows(stream: Any) -> None:
            async for batch in stream.batches():
                window(batch.scope, batch.items)

    topics = (READINGS, ROWS, EVENTS, EACH, TOTALS, SUMS, CLOSED, *CHANGELOGS.values())
    return Extension({"twin": [register]}, topics, {SUBJECT: SCHEMA})


def scenario(driver: AgentDriver) -> dict[str, Any]:
    """Feed, fail, abort, move time and restart; return what can be seen of it, step by step."""
    said: dict[str, Any] = {}

    def row(sensor: str, amount: int = 1, unit: str = "kWh") -> dict[str, Any]:
        return {"sensor": sensor, "amount": amount, "unit": unit}

    def step(name: str, act: Callable[[], object], *topics: TopicSpec) -> None:
        act()
        said[name] = {
            spec.name: [(out.partition, out.key, out.value, out.timestamp_us) for out in driver.read(spec)]
            for spec in topics
        }

    def failing() -> None:
        for unit in ("kWh", "poison", "stumble", "away", "huge", "kWh"):
            driver.append(row("a", unit=unit), topic=READINGS, key=b"a", partition=1)
        driver.append(b"\x00no frame", topic=READINGS, key=b"a", partition=1)
        driver.run()

    step("an event that fails is alone, its neighbours flow", failing, EACH)
    said["totals"] = driver.table(TOTALS)

    def versions() -> None:
        """One batch of three writers' schemas, in turn, with a row that fails and one that is none."""
        for number in range(1, 13):
            whole = row("s", number) | {"note": "n"}
            text = (None, WITHOUT_UNIT, WITH_NOTE)[number % 3]
            names = (("sensor", "amount", "unit"), ("sensor", "amount"), tuple(whole))[number % 3]
            given = {name: whole[name] for name in names}
            driver.append(given, topic=ROWS, key=b"s", schema=text)
        driver.append(row("s", 0), b"broken", topic=ROWS, key=b"s")
        driver.run()

    step("rows of several schemas in one batch", versions, SUMS)

    def aborted() -> None:
        driver.abort_next_unit()
        driver.feed(row("b"), row("b"), topic=READINGS, key=b"b")

    step("a unit that is refused leaves nothing", aborted, EACH)

    def visits() -> None:
        driver.append(
            driver.event("open", stream="x"), driver.event("log", {"line": "l"}, stream="x"), topic=EVENTS
        )
        driver.append(driver.event("log", {"line": "l"}, stream="y"), topic=EVENTS)
        driver.run()

    step("windows are open", visits, CLOSED)
    said["open"] = {
        key: MINUTES.get(driver.state("windows"), MINUTES.start_us(driver.now_us), key)
        for key in (b"default/x", b"default/y")
    }
    said["sessions"] = VISITS.open(driver.state("windows"), b"default/x")
    step("a disk is lost", lambda: driver.restart(lose_state=True), CLOSED, EACH, SUMS)
    step("a minute goes by", lambda: driver.advance(60), CLOSED)
    step("and another", lambda: driver.advance(60), CLOSED)
    early_us = driver.now_us - 120_000_000
    step(
        "late",
        lambda: driver.feed(driver.event("log", {"line": "l"}, stream="x", time=early_us), topic=EVENTS),
    )
    step("a restart", driver.restart, CLOSED)
    step(
        "tombstones",
        lambda: driver.feed(row("b", unit="forget"), topic=READINGS, key=b"b", headers=HEADERS),
        EACH,
    )
    said["totals at the end"] = driver.table(TOTALS)
    driver.append(row("b", 2), row("b", 0), topic=ROWS, key=b"b", headers=HEADERS)
    driver.append(row("b"), row("b", unit="poison"), topic=READINGS, key=b"b", headers=HEADERS)
    driver.run()
    said["headers"] = {
        spec.name: [out.headers for out in driver.read(spec)] for spec in (READINGS, ROWS, EACH, SUMS)
    }
    said["headers of letters"] = sorted(
        (letter.from_topic, letter.headers) for letter in driver.dead_letters() if letter.headers
    )
    said["state"] = {name: driver.state(name).items() for name in ("counter", "sums")}
    said["letters"] = sorted(
        # Behind its frame: a registry gives ids of its own.
        (
            letter.from_topic,
            letter.from_partition,
            letter.from_offset,
            letter.value[5:],
            letter.cause,
            letter.attempts,
        )
        for letter in driver.dead_letters()
    )
    said["late events"] = [
        (event["topic"], event["partition"], event["event_time_us"], event["watermark_us"])
        for event in driver.late_events()
    ]
    said["counts"] = {name: n for name, n in driver.counts.items() if name != "tick"}
    return said
