"""Ports on the loopback: the configured one, else the last one, else a free one."""

from __future__ import annotations

import socket
import time

import psutil

from ops.stack.errors import PortTaken

LOOPBACK = "127.0.0.1"
LET_GO_S = 1.0


def choose_port(part: str, *, setting: str, configured: int, last: int, taken: set[int]) -> int:
    """Choose a port for ``part`` and add it to ``taken``; raises PortTaken if the configured one is in use.

    Without a configured port the one of the last start is taken if it is free, so that addresses stay.
    """
    if configured:
        if configured in taken or not free_soon(configured):
            raise PortTaken(part, configured, setting, holder_of(configured))
        port = configured
    elif last and last not in taken and free_soon(last):
        port = last
    else:
        port = free_port(taken)
    taken.add(port)
    return port


def is_free(port: int) -> bool:
    """Whether a server could listen on the loopback's port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do: connections of a server that ended a moment ago do not keep its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_soon(port: int) -> bool:
    """Whether a port is free, or becomes so: a process that was killed lets go of it a moment later."""
    deadline = time.monotonic() + LET_GO_S
    while not is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def free_port(taken: set[int]) -> int:
    """Take a port that the kernel calls free and that is not spoken for."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port


def holder_of(port: int) -> str:
    """Say who listens on a port, as far as this user may know."""
    try:
        connections = psutil.net_connections(kind="tcp")
        for connection in connections:
            listens = connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:2] == (port,)
            if listens and connection.pid:
                process = psutil.Process(connection.pid)
                return f"process {process.pid} ({process.name()})"
    except psutil.Error:
        pass
    return "another process"
