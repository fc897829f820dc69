"""Time-outs and bounds that could lose a unit of work keep a worker from starting, whoever gives them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from connectors.kafka.membership import consumer_config
from connectors.kafka.options import KafkaOptions
from connectors.kafka.ports import Backoff
from ops.settings import Settings, WorkerSettings
from ops.worker import worker_options
from pipelines.app import assemble, build_role, tools_of
from pipelines.errors import OptionsRefused
from pipelines.extension import Extension
from pipelines.options import WorkerOptions
from schemas.catalog import LocalSchemas
from schemas.topics import OUTPUT
from state.effects import PartitionScope
from state.memory import MemoryBackend

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
    "a unit of more records than the producer has room for": (
        {"unit_records_max": 1_000_001},
        "unit_records_max=1000001 must be at most 1000000, half of what the producer queues",
    ),
    "or of more bytes": (
        {"unit_mb_max": 257},
        "unit_mb_max=257 must be at most 256",
    ),
    "a unit that cannot be appended before the broker aborts it": (
        {"unit_mb_max": 256, "transaction_timeout_ms": 6_399, "stall_ms_max": 3_000},
        "unit_mb_max=256 takes 6400 ms to append at 40 MB/s",
    ),
    "a first pause that is longer than the longest": (
        {"retry_backoff_ms": 20_000},
        "retry_backoff_ms=20000 must not be longer than retry_backoff_ms_max=10000",
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
def test_what_could_lose_a_unit_is_refused_by_the_settings(options, words):
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


BOUNDS = {
    "unit_records_max": 3,
    "unit_mb_max": 1,
    "handover_mb_max": 4,
    "attempts_max": 7,
    "retry_backoff_ms": 5,
    "retry_backoff_ms_max": 50,
}


def test_bounds_that_are_set_are_those_of_the_role(tmp_path):
    where = Settings(
        _env_file=None,
        data_dir=tmp_path,
        kafka={"bootstrap_servers": "127.0.0.1:1"},
        registry={"url": "http://127.0.0.1:1"},
        worker=BOUNDS,
    )
    mine = Extension(roles={"mine": [lambda *_: None]})
    engine = assemble(
        "mine", worker_options(where), mine, tools_of(mine, LocalSchemas()), web={"web_enabled": False}
    ).engine

    scope = PartitionScope("mine", 0, MemoryBackend(), None, None)
    engine.unit.add_scope("mine", scope)
    for _ in range(3):
        assert not engine.unit.full
        scope.emit(OUTPUT, b"k", b"v")
    assert engine.unit.full, "three records"
    scope.drop()
    scope.emit(OUTPUT, b"k", bytes(1 << 20))
    assert engine.unit.full, "a MB"

    consumer, coordinator = engine.options.consumer, engine.options.coordinator
    assert consumer.handover_bytes_max == 4 << 20
    assert consumer.chunk_bytes_max == 2 << 20, "two of them are handed over"
    assert consumer_config(engine.options.kafka, consumer)["queued.max.messages.kbytes"] == 4 << 10
    assert (coordinator.attempts_max, coordinator.backoff) == (7, Backoff(5, 50))
    engine.close()
