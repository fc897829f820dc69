"""Brokers stop and are killed in turn, while workers come and go."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING

import pytest

from ops.stack.cache import Cache
from tests.faults.cluster import NODES, Cluster
from tests.faults.ledger import INPUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.run import Run

pytestmark = [pytest.mark.slow_fault, pytest.mark.timeout(600)]

BUDGET_S = 180.0
"""Three nodes, of which some have just started, share a small machine with the workers."""


@pytest.fixture(scope="module")
def cluster(stack_settings, stack, tmp_path_factory) -> Iterator[Cluster]:
    """Three nodes; the session's Kafka has filled the cache that they start from."""
    with Cluster(tmp_path_factory.mktemp("cluster"), Cache(stack_settings.cache_dir.absolute())) as nodes:
        yield nodes


@pytest.fixture
def cluster_run(cluster, run_of: Callable[..., Run], topic_prefix) -> Run:
    """A run against the three nodes."""
    return run_of(cluster.options(topic_prefix), rate=1_000.0)


def two_workers(run: Run) -> None:
    """Have two read: one that never did ends with the reason where a broker is away."""
    run.begin()
    run.worker()
    run.worker()
    run.until(lambda: all("partition ready" in worker.says for worker in run.workers), "two that read")
    run.until_committed(500)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_leader_controller_and_coordinator_in_turn(cluster: Cluster, cluster_run: Run, how):
    run = cluster_run
    two_workers(run)
    of_input = INPUT.named(run.kafka.topic_prefix)
    for victim in (
        lambda: cluster.leader(of_input, 0),
        cluster.controller,
        lambda: cluster.coordinator(run.group),
    ):
        number = victim()
        cluster.end(number, how)
        run.until_committed(1_000, within_s=90)  # two of three are enough
        cluster.start(number)
        cluster.until_whole()
        run.fault_ended(f"node {number} is back")
        run.until_committed(500)
    run.settle(BUDGET_S)
    run.check()


def test_all_three_are_killed_at_once_and_started_again(cluster: Cluster, cluster_run: Run):
    run = cluster_run
    two_workers(run)
    for number in NODES:
        cluster.end(number, signal.SIGKILL)
    assert all(worker.runs for worker in run.workers)
    for number in NODES:
        cluster.start(number)
    cluster.until_whole()
    run.fault_ended("all nodes are back")
    run.until_committed(1_000, within_s=120)
    run.settle(BUDGET_S)
    run.check()


def test_two_and_three_workers_join_and_leave_while_a_broker_is_away(
    cluster: Cluster, cluster_run: Run, seed
):
    run, rng = cluster_run, random.Random(seed)
    two_workers(run)
    number = rng.choice(NODES)
    cluster.end(number, signal.SIGKILL)
    third = run.worker()
    run.until_committed(1_000, within_s=90)
    run.workers[0].kill()
    run.until_committed(1_000, within_s=90)
    cluster.start(number)
    run.worker()
    cluster.until_whole()
    run.fault_ended(f"node {number} is back")
    third.send(signal.SIGTERM)
    assert third.end() == 0
    run.until_committed(1_000, within_s=90)
    run.settle(BUDGET_S)
    run.check()
