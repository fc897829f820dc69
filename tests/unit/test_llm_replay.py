"""The same recording gives the same events, ledger rows and raw events, byte for byte, at the same times."""

from __future__ import annotations

import asyncio
import json
import selectors
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from connectors.llm.attempt import OWED_BYTES_MAX, OWED_S
from connectors.llm.loopback.lines import Line, frame_of
from connectors.llm.providers import PROVIDERS
from connectors.llm.recording import Recorded, Recording, read_recording
from schemas.topics import INPUT
from tests.unit.support_llm_operation import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

FOLDER = Path(__file__).parents[1] / "recordings"
RECORDINGS = {str(path.relative_to(FOLDER)): path for path in sorted(FOLDER.glob("*/*.stream.jsonl"))}
BEHIND_THE_END = {"anthropic/unknown-events.stream.jsonl": 1}
"""Pings that come later than the end mark, at which nobody reads on."""
BEGAN_US = 1_700_000_000_013_000  # between two ticks at which answers are flushed


class _Jumps(selectors.DefaultSelector):
    """Waits for nobody: where nothing is to be read, time goes on to the next timer at once."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """See selectors."""
        ready = super().select(0)
        if not ready and timeout:
            self.now_s += timeout
        return ready or ([] if timeout is not None else super().select(None))


class _Loop(asyncio.SelectorEventLoop):
    """A loop on a clock of its own."""

    def __init__(self) -> None:
        self.clock = _Jumps()
        super().__init__(self.clock)

    def time(self) -> float:
        """See asyncio."""
        return self.clock.now_s


class _Body(httpx2.AsyncByteStream):
    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        framing = PROVIDERS[self._recording.shape].framing
        for each in self._recording.events:
            await asyncio.sleep(max(0.0, began_s + each.at_us / 1e6 - loop.time()))
            if each.body is not None:
                yield each.body.encode()
            else:
                yield frame_of(Line(each.at_us, "other", each.event, each.data, each.comment), framing)


class _Plays(httpx2.AsyncBaseTransport):
    """Gives a recording as its answer, at its pace."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See httpx2."""
        await request.aread()
        headers = dict(self._recording.headers)
        return httpx2.Response(self._recording.status, headers=headers, stream=_Body(self._recording))


class Replayed(World):
    """An operation whose provider plays a recording; ``written`` is all that went to Kafka, with its time."""

    def __init__(self, recording: Recording) -> None:
        super().__init__(shape=recording.shape, keep={"input": "full", "output": "full", "raw": "full"})
        self.written: list[tuple[float, bytes, bytes]] = []
        self.tools["client"] = httpx2.AsyncClient(transport=_Plays(recording))

    async def put(self, tenure: Any, rows: Any, *, ends: int | None = None) -> None:
        """See Committer."""
        for row in rows:
            self._write(row.key, row.value)
        await super().put(tenure, rows, ends=ends)

    def send(self, key: bytes, value: bytes, partition: int, topic: Any = INPUT) -> None:
        """See Outlet."""
        self._write(key, value)
        super().send(key, value, partition, topic)

    def _write(self, key: bytes, value: bytes) -> None:
        self.written.append((asyncio.get_running_loop().time(), key, value))


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Replayed]:
    """Plays a recording at its pace, on a clock that waits for nobody; ``aside`` is done beside it."""

    def play(recording: Recording, aside: Any = None) -> Replayed:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            loop = runner.get_loop()

            def time_ns() -> int:
                return (BEGAN_US + round(loop.time() * 1e6)) * 1_000

            clock = SimpleNamespace(time_ns=time_ns, monotonic_ns=time_ns)
            for module in ("connectors.llm.clock", "connectors.llm.raw", "tests.unit.support_llm_operation"):
                monkeypatch.setattr(f"{module}.time", clock)
            world = Replayed(recording)
            runner.run(world._run(aside, {}))
        return world

    return play


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_is_the_same_to_the_byte_each_time(name, replay):
    recording = read_recording(RECORDINGS[name])
    first, second = replay(recording), replay(recording)
    assert first.written == second.written
    assert first.end in ("completed", "upstream_error")
    assert len(first.rows) >= 2, "an attempt as it began, and as it was settled"
    assert first.types().count("end") == 1


@pytest.mark.parametrize("name", RECORDINGS)
def test_what_was_kept_of_a_recording_is_what_came(name, replay):
    recording = read_recording(RECORDINGS[name])
    kept = replay(recording).kept()
    assert (kept.shape, kept.status) == (recording.shape, recording.status)
    came = recording.events[: len(recording.events) - BEHIND_THE_END.get(name, 0)]
    if recording.is_body:
        assert (kept.body, kept.headers.items() <= recording.headers.items()) == (recording.body, True)
    else:
        assert kept.events == came


ERRED = read_recording(RECORDINGS["openai-responses/error-in-band.stream.jsonl"])
"""An error, and 25 ms behind it the failed response."""


def told_later(after_us: int, *between: Recorded) -> Recording:
    """The recording with 900 tokens, which are told so long behind its error."""
    *events, error, failed = ERRED.events
    value = json.loads(failed.data)
    value["response"]["usage"]["output_tokens"] = 900
    told = replace(failed, at_us=error.at_us + after_us, data=json.dumps(value))
    return replace(ERRED, events=[*events, error, *between, told])


@pytest.mark.parametrize(("after_ms", "between", "tokens"), [
    (25, 0, 900), (OWED_S * 1_000 - 10, 0, 900), (OWED_S * 1_000 + 10, 0, None), (25, OWED_BYTES_MAX, None),
], ids=["as-recorded", "late", "too-late", "too-much"])  # fmt: skip
def test_what_is_told_behind_an_error_is_counted_within_bounds(after_ms, between, tokens, replay):
    comments = [Recorded(ERRED.events[-2].at_us, comment="x" * between)] * bool(between)
    recording = told_later(round(after_ms * 1_000), *comments)
    world = replay(recording)
    row = next(row for row in world.rows if row.attempt == 1 and row.state == "failed")
    assert (row.error_class, row.contents) == ("server", 2)
    assert (row.output_tokens == 900) == (tokens == 900)
    kept = world.kept().events
    assert (kept[-1].data == recording.events[-1].data) == (tokens == 900)
    waited_us = row.ended_us - row.started_us - ERRED.events[-2].at_us
    assert waited_us == (min(after_ms, OWED_S * 1_000) * 1_000 if not between else 0)


def test_a_cancel_does_not_wait_for_what_a_failed_call_took(replay):
    recording = told_later(400_000)

    async def cancel(world: Replayed) -> None:
        await asyncio.sleep(recording.events[-2].at_us / 1e6 + 0.1)
        world.operation.cancel()

    world = replay(recording, cancel)
    row = world.rows[-1]
    assert (world.end, row.attempt, row.error_class) == ("cancelled", 1, "cancelled")
    assert row.ended_us - row.started_us == recording.events[-2].at_us + 100_000
