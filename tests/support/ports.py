"""Ports of the loopback address for what a test starts."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Final

BLOCK: Final = 16
_SPOKEN_FOR: Final[list[socket.socket]] = []
"""The first port of each block in use: held as long as the process lives, so no other run takes the block
before the servers that it was asked for listen."""


def free_port() -> int:
    """A port of the loopback address that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def consecutive_ports(count: int) -> int:
    """First of ``count`` ports in a row that are free: a worker's roles take the ones after the first.

    They lie below those that the kernel gives to whoever asks for any, and each call gives others.

    Raises:
        RuntimeError: none are left.
    """
    assert count < BLOCK
    for block in range(20_000, 32_000, BLOCK):
        with ExitStack() as held:
            try:
                holder = socket.create_server(("127.0.0.1", block))
                for port in range(block + 1, block + 1 + count):
                    held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            _SPOKEN_FOR.append(holder)
            return block + 1
    raise RuntimeError(f"no {count} free ports in a row")
