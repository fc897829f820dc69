"""A worker in a network of its own, which is partitioned: silently, in one direction, or by resets.

A frame is lost by a wrong hardware address for the other end: nobody hears it, and nobody is told.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.conftest import need_program
from tests.faults.run import ASSIGNED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.run import Run

pytestmark = [pytest.mark.slow_fault, pytest.mark.timeout(300)]

HERE, THERE = "10.77.0.1", "10.77.0.2"
NOBODY = "02:00:00:00:00:01"
SESSION_S = 6.0


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@dataclass
class Network:
    """A namespace with one line to this one."""

    name: str
    here: str
    there: str

    @property
    def within(self) -> tuple[str, ...]:
        """A command that runs a command in it."""
        return ("ip", "netns", "exec", self.name)

    def make(self) -> None:
        ip("netns", "add", self.name)
        ip("link", "add", self.here, "type", "veth", "peer", "name", self.there, "netns", self.name)
        ip("addr", "add", f"{HERE}/24", "dev", self.here)
        ip("link", "set", self.here, "up")
        for words in (["addr", "add", f"{THERE}/24", "dev", self.there], ["link", "set", self.there, "up"]):
            ip("-n", self.name, *words)

    def lose(self, *, to_worker: bool, from_worker: bool) -> None:
        """Lose all that is sent in a direction from now on."""
        lost = ["lladdr", NOBODY, "nud", "permanent", "dev"]
        if to_worker:
            ip("neigh", "replace", THERE, *lost, self.here)
        if from_worker:
            ip("-n", self.name, "neigh", "replace", HERE, *lost, self.there)

    def heal(self) -> None:
        """Have both ends find each other again."""
        ip("neigh", "flush", "nud", "permanent", "dev", self.here)
        ip("-n", self.name, "neigh", "flush", "nud", "permanent", "dev", self.there)

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False)


@pytest.fixture
def network() -> Iterator[Network]:
    """A worker's network; skips where none may be made."""
    need_program("ip")
    made = Network(f"sg{os.getpid()}", f"sgh{os.getpid()}", f"sgw{os.getpid()}")
    try:
        made.make()
    except PermissionError as error:
        made.remove()
        pytest.skip(f"no network namespace may be made here: {error}")
    yield made
    made.remove()


@pytest.mark.parametrize(
    ("to_worker", "from_worker"),
    [(True, True), (True, False), (False, True)],
    ids=["silent", "it hears nothing", "nobody hears it"],
)
def test_a_worker_that_is_cut_off_is_replaced_and_comes_back(
    run: Run, network: Network, to_worker, from_worker
):
    run.begin()
    with run.proxy(HERE) as proxy:
        cut_off = run.worker("one", bootstrap=proxy.bootstrap, within=network.within)
        run.until_committed(1_000)
        network.lose(to_worker=to_worker, from_worker=from_worker)
        before = run.committed()
        time.sleep(1.0)
        still = run.committed()
        time.sleep(1.0)
        assert run.committed() == still <= before + 3_000, "the partition did not land"
        other = run.worker("two")
        run.until(lambda: other.says.count("partition ready") == ASSIGNED, "another worker reading all")
        run.until_committed(1_000)
        network.heal()
        run.fault_ended("the network is whole")
        ready = cut_off.says.count("partition ready")
        run.until(lambda: cut_off.says.count("partition ready") > ready, "it reads again", 90)
        run.until_committed(500)
        run.settle()
    run.check()


def test_a_worker_whose_connections_are_reset_again_and_again_goes_on(run: Run):
    run.begin()
    with run.proxy() as proxy:
        worker = run.worker(bootstrap=proxy.bootstrap)
        run.until_committed(500)
        for _ in range(8):
            assert proxy.reset() > 0
            run.until_committed(300)
        assert worker.runs
        run.settle()
    run.check()
