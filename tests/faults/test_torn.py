"""Commits that come too late, and workers that come back from the dead: Kafka refuses both."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.kafka_proxy import ADD_OFFSETS_TO_TXN, END_TXN, TXN_OFFSET_COMMIT, end_txn_error
from tests.faults.run import ASSIGNED

if TYPE_CHECKING:
    from tests.faults.kafka_proxy import Hold
    from tests.faults.run import Run

pytestmark = [pytest.mark.slow_fault, pytest.mark.timeout(300)]

FENCED = {47, 90}  # INVALID_PRODUCER_EPOCH, PRODUCER_FENCED
SESSION_S = 6.0


@pytest.mark.parametrize("asked_again", ["by the client", "by nobody"])
def test_a_commit_that_arrives_in_the_next_transaction_does_not_tear_it(run: Run, asked_again):
    run.begin()
    with run.proxy() as proxy:
        worker = run.worker(bootstrap=proxy.bootstrap, transaction_timeout_ms=2_000)
        run.until_committed(300)
        late = proxy.hold(END_TXN, "request")
        run.until(late.landed.is_set, "a commit on its way")
        repeats: list[Hold] = []
        if asked_again == "by nobody":
            repeats = [proxy.hold(END_TXN, "request") for _ in range(20)]
            said = "asking the broker"
            run.until(lambda: said in worker.says, "a worker that does not know whether it committed")
            for repeat in repeats:
                repeat.release(forward=False)
        following = proxy.hold(ADD_OFFSETS_TO_TXN, "request")
        run.until(following.landed.is_set, "the next transaction, open and with outputs")
        answered = len(proxy.answers[END_TXN])
        late.release(forward=True)
        run.until(lambda: len(proxy.answers[END_TXN]) > answered, "an answer to the late commit")
        worker.kill()
        following.release(forward=False)
        run.worker()
        run.until_committed(300)
        run.settle()
        run.check()
        assert end_txn_error(proxy.answers[END_TXN][answered]) in FENCED


def test_a_commit_that_took_place_and_was_answered_by_an_unknown_error_is_not_done_again(run: Run):
    run.begin()
    with run.proxy() as proxy:
        worker = run.worker(bootstrap=proxy.bootstrap)
        for _ in range(3):
            run.until_committed(300)
            spoilt = proxy.spoil()
            run.until(spoilt.landed.is_set, "a commit whose answer is an error")
            assert spoilt.said == 0, "it took place"
        run.until_committed(300)
        run.settle()
    run.check()
    assert worker.says.count("outcome of a commit unknown") == 3
    assert "unit of work aborted" not in worker.says


@pytest.mark.parametrize("moment", ["between units", "as its offsets are on their way"])
def test_a_worker_that_slept_past_its_session_is_fenced_by_kafka(run: Run, moment):
    run.begin()
    with run.proxy() as proxy:
        zombie = run.worker("one", bootstrap=proxy.bootstrap)
        run.until_committed(300)
        if moment == "between units":
            zombie.send(signal.SIGSTOP)
            time.sleep(SESSION_S)
        else:
            held = proxy.hold(TXN_OFFSET_COMMIT, "request")
            run.until(held.landed.is_set, "offsets on their way")
            zombie.send(signal.SIGSTOP)
        owner = run.worker("two")
        run.until(lambda: owner.says.count("partition ready") == ASSIGNED, "the new owner reading all")
        run.until_committed(300)
        if moment != "between units":
            refused = len(proxy.answers[TXN_OFFSET_COMMIT])
            held.release(forward=True)
            run.until(lambda: len(proxy.answers[TXN_OFFSET_COMMIT]) > refused, "the zombie's answer")
        zombie.send(signal.SIGCONT)
        again = "the zombie reading again, as a member"
        run.until(lambda: zombie.says.count("partition ready") > ASSIGNED, again)
        if moment != "between units":
            assert "unit of work aborted" in zombie.says
        run.until_committed(300)
        run.settle()
    run.check()
