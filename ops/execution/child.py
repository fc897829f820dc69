"""The command that `exec` runs: in a process group of its own, read as it writes."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Literal, Self

from ops.orphans import die_with_parent, signal_group

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Sequence

OutputName = Literal["stdout", "stderr"]

_CHUNK_BYTES = 64 * 1024
# A command that ended may leave a background process that holds its output open. What that still
# writes is read for as long as it writes; silent for this long, it is left alone.
_LINGER_S = 2.0


class Child:
    """A running command and its outputs; one on a terminal has only ``stdout``, as terminals do."""

    def __init__(self, process: asyncio.subprocess.Process, outputs: dict[OutputName, _Output]) -> None:
        self._process = process
        self._outputs = outputs
        self._ended = asyncio.ensure_future(process.wait())

    @classmethod
    async def start(cls, argv: Sequence[str], *, pty: bool = False) -> Self:
        """Start the command; raises OSError if it cannot be started.

        Its standard input is ours if that is a file or a pipe. A terminal is not handed on: in a
        group of its own the command would be stopped at its first read from it.
        """
        stdin = subprocess.DEVNULL if sys.stdin is None or sys.stdin.isatty() else None
        if pty:
            return await cls._start_on_pty(argv, stdin)
        # Pipes of our own: asyncio's process does not end for it as long as anybody holds its pipes.
        out, err = os.pipe(), os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=stdin,
                stdout=out[1],
                stderr=err[1],
                process_group=0,
                preexec_fn=die_with_parent(),
            )
        except BaseException:
            os.close(out[0])
            os.close(err[0])
            raise
        finally:
            os.close(out[1])
            os.close(err[1])
        return cls(process, {"stdout": await _Output.on(out[0]), "stderr": await _Output.on(err[0])})

    @classmethod
    async def _start_on_pty(cls, argv: Sequence[str], stdin: int | None) -> Self:
        ours, theirs = os.openpty()
        _copy_window_size(ours)
        ask_kernel = die_with_parent()

        def take_terminal() -> None:
            ask_kernel()
            given = os.dup(0)
            os.login_tty(theirs)  # a session, so a group, of its own, with this as its terminal
            os.dup2(given, 0)  # nobody types on it: a read from it would never return
            os.close(given)

        try:
            process = await asyncio.create_subprocess_exec(*argv, stdin=stdin, preexec_fn=take_terminal)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return cls(process, {"stdout": await _Output.on(ours)})

    @property
    def outputs(self) -> tuple[OutputName, ...]:
        """The outputs that can be read."""
        return tuple(self._outputs)

    @property
    def ended(self) -> bool:
        """Whether the command itself ended; what it started may live on."""
        return self._ended.done()

    async def chunks(self, name: OutputName) -> AsyncIterator[bytes]:
        """What the command writes to one output, until it and all that hold the output are done.

        Nothing is read ahead of the consumer beyond two chunks: a consumer that waits slows the
        command down, as a full pipe does.
        """
        output = self._outputs[name]
        try:
            while chunk := await self._next(output.reader):
                yield chunk
        finally:
            output.transport.close()

    async def _next(self, reader: asyncio.StreamReader) -> bytes:
        """The next chunk; empty at the end, or when what the ended command left behind is silent."""
        read = asyncio.ensure_future(reader.read(_CHUNK_BYTES))
        try:
            if not self._ended.done():
                await asyncio.wait({read, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            if not read.done():
                await asyncio.wait({read}, timeout=_LINGER_S)
            return read.result() if read.done() else b""
        except OSError as error:
            if error.errno == errno.EIO:  # how Linux says that the last process left the terminal
                return b""
            raise
        finally:
            read.cancel()

    async def wait(self) -> int:
        """Exit code as a shell tells it: 128 + n for a command that signal n ended."""
        code = await asyncio.shield(self._ended)
        return code if code >= 0 else 128 - code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command and to what it started in its group."""
        signal_group(self._process.pid, number)


class _Output:
    """The end of a pipe or a terminal that we read."""

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.BaseTransport) -> None:
        self.reader = reader
        self.transport = transport

    @classmethod
    async def on(cls, file: int) -> Self:
        """Take over a file descriptor."""
        reader = asyncio.StreamReader(limit=_CHUNK_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(file, "rb", buffering=0)
        )
        return cls(reader, transport)


def _copy_window_size(terminal: int) -> None:
    """Give a pseudo terminal the size of ours, or one that build tools do not wrap lines for."""
    try:
        size = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
    except (OSError, ValueError):
        size = struct.pack("HHHH", 50, 200, 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
