"""The same recording gives the same events, ledger rows and raw events, byte for byte, at the same times."""

from __future__ import annotations

import asyncio
import selectors
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from connectors.llm.loopback.lines import Line, frame_of
from connectors.llm.providers import PROVIDERS
from connectors.llm.recording import Recording, read_recording
from tests.unit.support_llm_operation import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

FOLDER = Path(__file__).parents[1] / "recordings"
RECORDINGS = {str(path.relative_to(FOLDER)): path for path in sorted(FOLDER.glob("*/*.stream.jsonl"))}
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

    def send(self, key: bytes, value: bytes, partition: int, topic: Any = None) -> None:
        """See Outlet."""
        self._write(key, value)
        if topic is None:
            super().send(key, value, partition)

    def _write(self, key: bytes, value: bytes) -> None:
        self.written.append((asyncio.get_running_loop().time(), key, value))


def replayed(recording: Recording, at: Callable[[Callable[[], int]], None]) -> Replayed:
    with asyncio.Runner(loop_factory=_Loop) as runner:
        loop = runner.get_loop()
        at(lambda: (BEGAN_US + round(loop.time() * 1e6)) * 1_000)
        world = Replayed(recording)
        runner.run(world._run(None, {}))
    return world


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_is_the_same_to_the_byte_each_time(name, monkeypatch):
    def at(time_ns: Callable[[], int]) -> None:
        clock = SimpleNamespace(time_ns=time_ns, monotonic_ns=time_ns)
        for module in ("connectors.llm.clock", "connectors.llm.raw", "tests.unit.support_llm_operation"):
            monkeypatch.setattr(f"{module}.time", clock)

    recording = read_recording(RECORDINGS[name])
    first, second = replayed(recording, at), replayed(recording, at)
    assert first.written == second.written
    assert first.end in ("completed", "upstream_error")
    assert len(first.rows) >= 2, "an attempt as it began, and as it was settled"
    assert first.types().count("end") == 1
