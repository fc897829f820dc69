"""Two agents on topics without events: the first passes on what it reads, the second has windows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.extension import Extension
from state.watermark import Watermark
from state.windows import TimeWindows, WindowOptions
from tests.support.twin_scenario import CLOSED, READINGS, ROWS, SCHEMA, SUBJECT, topic

if TYPE_CHECKING:
    from pipelines.testing import AgentDriver

START_US = 1_700_000_040_000_000
"""The start of a minute."""
ROW = {"sensor": "a", "amount": 1, "unit": "kWh"}
KEPT = topic("twin.silent.changelog.v1", cleanup="compact")
MINUTES = TimeWindows(b"m", WindowOptions(window_ms=60_000, grace_ms=5_000, ttl_ms=600_000))
DISORDER_US = 2_000_000


def clock_of(scope: Any) -> Watermark:
    clock = Watermark(DISORDER_US)
    clock.load(scope.state, b"c")
    return clock


def say(scope: Any, clock: Watermark) -> None:
    for window in MINUTES.closed(scope.state, clock.now_us, 100):
        scope.emit(CLOSED, window.key, window.value, partition=scope.partition)
    MINUTES.expire(scope.state, clock.now_us, 100)
    clock.save(scope.state, b"c")


def handle(scope: Any, record: Any, row: dict[str, Any]) -> None:
    clock = clock_of(scope)
    clock.see(record.timestamp_us, record.timestamp_us)
    MINUTES.add(
        scope.state, record.timestamp_us, row["sensor"].encode(), clock.now_us,
        lambda value: b"%d" % (int(value or 0) + 1),
    )  # fmt: skip
    scope.count("counted")
    say(scope, clock)


def on_idle(scope: Any, silent_us: int) -> None:
    if MINUTES.next_close_us(scope.state) is not None:
        clock = clock_of(scope)
        clock.idle(silent_us)
        say(scope, clock)


def register(app: Any, tools: Any, _options: Any) -> None:
    decode = tools.decoder(SUBJECT)

    @app.agent(app.source(READINGS, agent="passes_on", decode=decode))
    async def passes_on(stream: Any) -> None:
        async for row in stream:
            stream.scope.emit(ROWS, stream.record.key, tools.codec.encode(SUBJECT, row))

    @app.agent(app.source(ROWS, agent="silent", decode=decode, changelog=KEPT, on_idle=on_idle))
    async def silent(stream: Any) -> None:
        async for row in stream:
            handle(stream.scope, stream.record, row)


def extension() -> Extension:
    topics = (READINGS, ROWS, CLOSED, KEPT)
    return Extension({"silent": [register]}, topics, {SUBJECT: SCHEMA})


def closes_once(driver: AgentDriver, how: str) -> None:
    """Feed two rows and nothing more; ``how`` says what is in the way of their window's close."""
    driver.feed(ROW, ROW, topic=READINGS, key=b"a")
    driver.advance(40)
    assert driver.values(CLOSED) == []
    if how in ("restarted", "state lost"):
        driver.restart(lose_state=how == "state lost")
    elif how == "refused":
        driver.abort_next_unit()
    driver.advance(26)
    assert driver.values(CLOSED) == [], "it takes in what is late by five seconds, and two of disorder"
    driver.advance(11)
    assert driver.values(CLOSED) == [b"2"]
    driver.advance(600)
    driver.restart()
    driver.advance(600)
    assert driver.values(CLOSED) == []
    assert driver.counts == {"counted": 2}
