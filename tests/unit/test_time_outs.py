"""Time-outs under which a unit of work could be lost keep a worker from starting, whoever gives them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from connectors.kafka.options import KafkaOptions
from ops.settings import WorkerSettings
from pipelines.app import build_role
from pipelines.errors import OptionsRefused
from pipelines.extension import Extension
from pipelines.options import WorkerOptions

WRONG = {
    "the broker aborts a unit that is being made": (
        {"transaction_timeout_ms": 5_100},
        "transaction_timeout_ms=5100 must be longer than commit_interval_ms",
    ),
    "a member that is polling is taken for dead": (
        {"session_timeout_ms": 70_000},
        "session_timeout_ms=70000 must not be longer than max_poll_interval_ms=60000",
    ),
    "a rebalance outlasts the poll interval": (
        {"max_poll_interval_ms": 15_000},
        "max_poll_interval_ms=15000 must be longer than stall_ms_max",
    ),
    "and so it does without transactions, where the worst counts": (
        {"max_poll_interval_ms": 45_000, "at_least_once": ("mine",)},
        r"max_poll_interval_ms=45000 must be longer than stall_ms_max \+ 4 \* transaction_timeout_ms = 45000",
    ),
}


@pytest.fixture
def given(tmp_path):
    """Options of a worker whose services are nowhere: nothing may be asked of them."""

    def make(**options):
        nowhere = KafkaOptions("127.0.0.1:1")
        return WorkerOptions(
            kafka=nowhere, registry_url="http://127.0.0.1:1", postgres_dsn=None, state_dir=tmp_path, **options
        )

    return make


@pytest.mark.parametrize(("options", "words"), WRONG.values(), ids=WRONG)
def test_time_outs_that_could_lose_a_unit_are_refused_by_the_settings(options, words):
    with pytest.raises(ValidationError, match=f"worker.{words}"):
        WorkerSettings(**options)


@pytest.mark.parametrize(("options", "words"), WRONG.values(), ids=WRONG)
def test_and_by_the_role_that_a_program_of_ones_own_builds(options, words, given):
    mine = Extension(roles={"mine": [lambda *_: None]})
    with pytest.raises(OptionsRefused, match=words):
        build_role("mine", given(**options), mine)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ValidationError) as caught:
        WorkerSettings(transaction_timeout_ms=5_000, session_timeout_ms=9_000, max_poll_interval_ms=8_000)
    assert all(
        f"worker.{name}=" in str(caught.value) for name in ("transaction_timeout_ms", "session_timeout_ms")
    )


def test_the_defaults_hold_with_transactions_and_without():
    WorkerSettings(at_least_once=("mine",))
    WorkerSettings(max_poll_interval_ms=15_001)
