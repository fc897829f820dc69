"""A topic that takes less than the table says, as an operator left it: the worker says so, and loses nothing.

What is over the table's own limit becomes a dead letter; each run of the ledger has such events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient

from tests.faults.ledger import OUTPUT
from tests.support.topic_config import set_config

if TYPE_CHECKING:
    from tests.faults.run import Run


pytestmark = [pytest.mark.slow_fault, pytest.mark.timeout(300)]


def set_limit(run: Run, limit_bytes: int) -> None:
    """Set the broker's own limit of the output topic; it is one of batches."""
    admin = AdminClient(run.kafka.client_config())
    set_config(admin, OUTPUT.named(run.kafka.topic_prefix), "max.message.bytes", str(limit_bytes))


def test_a_topic_that_refuses_whole_batches_stops_the_worker_with_the_reason_and_costs_nothing(run: Run):
    set_limit(run, 1_000)
    run.begin(2_000)
    worker = run.worker()
    assert worker.end(90) != 0
    assert "max.message.bytes" in worker.says
    set_limit(run, OUTPUT.max_message_bytes)
    run.worker()
    run.until_committed(2_000)
    run.settle()
    run.check()
