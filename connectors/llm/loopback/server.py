"""The loopback provider itself: in a loop of the caller's, or on a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from connectors.llm.loopback.answers import Answers
from connectors.llm.loopback.control import Control
from connectors.llm.loopback.errors import LoopbackRefused
from connectors.llm.loopback.http import Connection
from connectors.llm.loopback.kept import KeptAnswers
from connectors.llm.loopback.library import Library
from connectors.llm.loopback.seen import Calls
from connectors.llm.loopback.wanted import parse_wanted
from connectors.llm.loopback.wheel import Wheel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from connectors.llm.calls import Shape
    from connectors.llm.loopback.seen import Seen

START_S_MAX: Final = 30.0
_BASES: Final[Mapping[str, str]] = {
    "openai-chat": "/v1",
    "openai-responses": "/v1",
    "anthropic": "",
    "gemini": "/v1beta",
    "ollama": "",
}


@dataclass(frozen=True, slots=True)
class LoopbackOptions:
    """How a loopback provider is set."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""
    recordings: Path | None = None
    """Folder of ``*.stream.jsonl``, besides ours."""
    speed: float = 1.0
    """Of recordings where a request wants none; 0 = as fast as they can be written."""
    models: Mapping[str, str] = field(default_factory=dict)
    """What other models' names stand for: ``{"gpt-x": "words?tokens=200&rate=50"}``."""


class Loopback:
    """Serves on loopback: ``async with Loopback(options) as loopback: loopback.url``."""

    def __init__(self, options: LoopbackOptions | None = None) -> None:
        """Take the options. Raises LoopbackRefused for an address that others could reach."""
        self.options = options or LoopbackOptions()
        if not _is_loopback(self.options.host):
            raise LoopbackRefused(
                f"{self.options.host} is no loopback address, and this provider asks nobody for a key",
                "Take 127.0.0.1 or ::1.",
            )
        for text in self.options.models.values():
            parse_wanted(text)
        self.calls = Calls()
        self.answers = Answers(Library(self.options.recordings), self.options.models, self.options.speed)
        self.kept = KeptAnswers()
        self.control = Control(self.answers, self.calls)
        self.connections: set[Connection] = set()
        self.wheel: Wheel
        self.url = ""
        """``http://127.0.0.1:PORT``, once it is served."""

    @property
    def seen(self) -> list[Seen]:
        """The latest calls, oldest first."""
        return list(self.calls.latest)

    def base_url(self, shape: Shape) -> str:
        """Give what a target of that shape has as its base."""
        return self.url + _BASES[shape]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.wheel = Wheel(loop)
        self._server = await loop.create_server(
            lambda: Connection(self), self.options.host, self.options.port, backlog=4_096
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for connection in list(self.connections):
            connection.abort("stopped")
        self.wheel.close()
        await self._server.wait_closed()


class LoopbackThread:
    """The same for callers without a loop: ``with LoopbackThread() as loopback: loopback.url``."""

    def __init__(self, options: LoopbackOptions | None = None) -> None:
        self._loopback = Loopback(options)
        self._thread = threading.Thread(target=self._run, name="loopback-provider", daemon=True)
        self._started = threading.Event()
        self._failed: BaseException | None = None

    def __enter__(self) -> Loopback:
        self._thread.start()
        if not self._started.wait(START_S_MAX):
            raise TimeoutError(f"the loopback provider did not start within {START_S_MAX:g} s")
        if self._failed is not None:
            raise self._failed
        return self._loopback

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_S_MAX)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # it is raised where it was entered
            self._failed = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._loopback:
            self._started.set()
            await self._stop.wait()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
