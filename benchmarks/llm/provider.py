"""The provider of all contenders: ``sluicegate llm loopback`` in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import psutil

from benchmarks.edge.servers import free_port
from benchmarks.meter import stop
from connectors.llm.loopback.script import words

if TYPE_CHECKING:
    from types import TracebackType

    from benchmarks.llm.bench import LlmBench

MODEL: Final = "bench"
RATE: Final = 50
"""Tokens a second of each answer."""
SEED: Final = 1
START_S: Final = 60.0


class Provider:
    """A running provider; leave it to stop it."""

    def __init__(self, bench: LlmBench) -> None:
        bench.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._log = bench.folder / "provider.log"
        self._env = os.environ | {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "SLUICEGATE_DATA_DIR": str(bench.folder / "provider"),
        }

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ops", "llm", "loopback", "--port", str(self.port)],
                env=self._env, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.ask("GET", "/healthz")
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    stop(self._process)
                    said = self._log.read_text("utf-8", "replace")[-300:]
                    raise RuntimeError(f"the provider did not start: {said}") from None
                time.sleep(0.1)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop(self._process)

    def answers(self, tokens: int) -> str:
        """Have the model answer so many tokens from now on; returns their text, stamps left out."""
        wanted = f"words?tokens={tokens}&rate={RATE}&seed={SEED}&stamp=1"
        self.ask("PUT", f"/_models/{MODEL}", wanted)
        return "".join(words(tokens, random.Random(SEED)))  # as the provider makes them

    def calls(self) -> list[dict[str, Any]]:
        """Give the latest calls, see ``connectors/llm/loopback/seen.py``."""
        found: list[dict[str, Any]] = self.ask("GET", "/_calls")["calls"]
        return found

    def forget(self) -> None:
        """Have it forget the calls so far."""
        self.ask("DELETE", "/_calls")

    def cpu_s(self) -> float:
        """Return processor seconds so far."""
        return float(sum(psutil.Process(self._process.pid).cpu_times()[:2]))

    def ask(self, method: str, path: str, body: str = "") -> Any:
        """Ask what is no call of a model; raises RuntimeError if it is refused."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"the provider answered {answer.status}: {said[:200]!r}")
        return json.loads(said)
