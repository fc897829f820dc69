"""A worker in a network of its own, which is partitioned: silently, in one direction, or by resets.

See ``tests/support/network.py``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.run import ASSIGNED
from tests.support.network import network_of_its_own

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.run import Run
    from tests.support.network import Network

pytestmark = [pytest.mark.slow_fault, pytest.mark.timeout(300)]

HERE, THERE = "10.77.0.1", "10.77.0.2"
SESSION_S = 6.0


@pytest.fixture
def network() -> Iterator[Network]:
    """A worker's network; skips where none may be made."""
    with network_of_its_own(HERE, THERE) as made:
        yield made


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
        network.lose(to_it=to_worker, from_it=from_worker)
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
