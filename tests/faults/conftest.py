"""Runs under fault: each has a seed, and a failure prints the one command that replays it.

FAULT_SEED names the seed; without it CI takes the same each time and a laptop a new one.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from schemas.payloads import PayloadCodec
from schemas.wire import WireCodec
from tests.faults.run import Run
from tests.faults.sink_table import SinkTable
from tests.faults.streams import RecordedStreams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from connectors.registry import Registry
    from ops.stack.addresses import Addresses

CI_SEED = 20_261_126
_SEED = pytest.StashKey[int]()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The number from which all chance of a test comes."""
    given = os.environ.get("FAULT_SEED")
    chosen = CI_SEED if os.environ.get("CI") else random.SystemRandom().randrange(10**9)
    number = int(given) if given else chosen
    request.node.stash[_SEED] = number
    return number


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Say at a failure how to have it again."""
    report: Any = yield
    number = item.stash.get(_SEED, None)
    if report.failed and number is not None:
        command = f"FAULT_SEED={number} .venv/bin/python -m pytest -m '' {item.nodeid!r}"
        report.sections.append(("replay", command))
    return report


@pytest.fixture
def run(kafka_options: KafkaOptions, tmp_path: Path, seed: int) -> Iterator[Run]:
    """A run of batch agents against the session's Kafka."""
    started = Run(kafka_options, tmp_path, seed)
    yield started
    started.close()


@pytest.fixture
def run_of(kafka_options: KafkaOptions, tmp_path: Path, seed: int) -> Iterator[Callable[..., Run]]:
    """Make a run with options of its own."""
    made: list[Run] = []

    def make(kafka: KafkaOptions = kafka_options, **options: Any) -> Run:
        made.append(Run(kafka, tmp_path, seed, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def recorded(seed: int) -> Iterator[Callable[[KafkaOptions, Registry], RecordedStreams]]:
    """Make streams for an ingest whose history is recorded."""
    made: list[RecordedStreams] = []

    def make(kafka: KafkaOptions, registry: Registry) -> RecordedStreams:
        made.append(RecordedStreams(kafka, WireCodec(registry), PayloadCodec(registry), seed))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def sink_history() -> Iterator[Callable[[Addresses, KafkaOptions, Registry], SinkTable]]:
    """Record what an archive does in PostgreSQL."""
    made: list[SinkTable] = []

    def make(stack: Addresses, kafka: KafkaOptions, registry: Registry) -> SinkTable:
        made.append(SinkTable(stack, kafka, WireCodec(registry)))
        return made[-1]

    yield make
    for each in made:
        each.close()
