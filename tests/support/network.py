"""A network of its own for a process, whose line to this one loses what it is told to lose.

A frame is lost by a wrong hardware address for the other end: nobody hears it, and nobody is told.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.conftest import need_program

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = "02:00:00:00:00:01"


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass
class Network:
    """A namespace with one line to this one."""

    name: str
    here: str
    """The line's device at this end, and at the other."""
    there: str
    here_address: str
    there_address: str

    @property
    def within(self) -> tuple[str, ...]:
        """A command that runs a command in it."""
        return ("ip", "netns", "exec", self.name)

    def make(self) -> None:
        ip("netns", "add", self.name)
        ip("link", "add", self.here, "type", "veth", "peer", "name", self.there, "netns", self.name)
        ip("addr", "add", f"{self.here_address}/24", "dev", self.here)
        ip("link", "set", self.here, "up")
        ip("-n", self.name, "addr", "add", f"{self.there_address}/24", "dev", self.there)
        ip("-n", self.name, "link", "set", self.there, "up")

    def lose(self, *, to_it: bool, from_it: bool) -> None:
        """Lose all that is sent in a direction from now on."""
        lost = ["lladdr", NOBODY, "nud", "permanent", "dev"]
        if to_it:
            ip("neigh", "replace", self.there_address, *lost, self.here)
        if from_it:
            ip("-n", self.name, "neigh", "replace", self.here_address, *lost, self.there)

    def heal(self) -> None:
        """Have both ends find each other again."""
        ip("neigh", "flush", "nud", "permanent", "dev", self.here)
        ip("-n", self.name, "neigh", "flush", "nud", "permanent", "dev", self.there)

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False)


@contextmanager
def network_of_its_own(here: str, there: str) -> Iterator[Network]:
    """Make one with these addresses; skips where none may be made."""
    need_program("ip")
    number = os.getpid()
    made = Network(f"sg{number}", f"sgh{number}", f"sgw{number}", here, there)
    try:
        made.make()
    except PermissionError as error:
        made.remove()
        pytest.skip(f"no network namespace may be made here: {error}")
    try:
        yield made
    finally:
        made.remove()
