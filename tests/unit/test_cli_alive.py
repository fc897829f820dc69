"""When a silent command says that it lives, by a clock of the test's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ops.execution import run as module
from ops.execution.run import Execution, ExecutionOptions


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.outputs: list[float] = []
        self.execution: Execution | None = None

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        while self.outputs and self.outputs[0] <= until:
            assert self.execution is not None
            self.execution._quiet_since = self.outputs.pop(0)
        self.now = until


def signs(monkeypatch: pytest.MonkeyPatch, every_s: float, outputs: list[float], count: int) -> list[float]:
    """Seconds after the start at which the first signs come, of a command that writes at these seconds."""
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock.monotonic)
    monkeypatch.setattr(module.asyncio, "sleep", clock.sleep)
    options = ExecutionOptions(("x",), "s", "log", "x", alive_every_s=every_s)
    execution: Any = Execution(options, client=None, terminal=None)  # type: ignore[arg-type]  # not asked here
    clock.execution, clock.outputs = execution, [100.0 + at for at in outputs]
    told: list[float] = []

    async def put(_type: str, _payload: object) -> None:
        told.append(clock.now - 100.0)
        if len(told) == count:
            raise asyncio.CancelledError

    monkeypatch.setattr(execution._outbox, "put", put)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(execution._say_alive())
    return told


def test_every_third_of_the_time_out_and_not_at_two_thirds_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signs(monkeypatch, 2.5, [], 3) == [2.5, 5.0, 7.5]


def test_counted_from_the_last_output_and_none_while_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signs(monkeypatch, 10.0, [1.0, 8.0, 17.0, 40.0], 3) == [27.0, 37.0, 50.0]
