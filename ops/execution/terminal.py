"""The terminal of `exec`: gets the command's bytes as they are, and never holds up the event loop."""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ops import console

if TYPE_CHECKING:
    from ops.execution.child import OutputName


class Terminal:
    """Our own standard output and error; ``quiet`` shows nothing of the command."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._files = {} if quiet else {"stdout": sys.stdout.fileno(), "stderr": sys.stderr.fileno()}
        # A thread, as a terminal or a pager may stop taking bytes; one, so that they stay in order.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="terminal")

    async def write(self, name: OutputName, chunk: bytes) -> None:
        """Hand on what the command wrote; waits for a slow reader, as the command itself would."""
        file = self._files.get(name)
        if file is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._write, name, file, chunk)

    def _write(self, name: OutputName, file: int, chunk: bytes) -> None:
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError:
            # Nobody reads it any more (`| head`, a closed terminal) or there is no room; the stream goes on.
            self._files.pop(name, None)

    def warn(self, text: str) -> None:
        """Say something of our own."""
        console.warn(text)

    def fail(self, text: str) -> None:
        """Say what is wrong."""
        console.fail(text)

    def close(self) -> None:
        """Let the thread go when it has written what it holds."""
        self._thread.shutdown(wait=False)
