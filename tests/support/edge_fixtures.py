"""Fixtures of all tests of the edge: a stand-in for ingest on real topics, and edges in processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from schemas.topics import (
    CONNECTIONS,
    INDEX,
    INPUT,
    LLM_REQUESTS,
    LLM_ROUTES,
    OUTPUT,
    PRESSURE,
    REJECTS,
    REVOCATIONS,
)  # fmt: skip
from tests.support.edge_process import EdgeProcess
from tests.support.ingest_twin import IngestTwin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from connectors.registry import Registry

EDGE_TOPICS = (
    INPUT, OUTPUT, INDEX, REJECTS, REVOCATIONS, PRESSURE, CONNECTIONS, LLM_REQUESTS, LLM_ROUTES,
)  # fmt: skip


@pytest.fixture
def twin(
    kafka_options: KafkaOptions, registry: Registry, topics: Callable[..., object]
) -> Iterator[IngestTwin]:
    topics(*EDGE_TOPICS)
    twin = IngestTwin(kafka_options, registry)
    yield twin
    twin.close()


@pytest.fixture
def make_edge(
    kafka_options: KafkaOptions, registered_schemas: str, twin: IngestTwin, tmp_path: Path
) -> Iterator[Callable[..., EdgeProcess]]:
    made: list[EdgeProcess] = []

    def make(*, ready: bool = True, **options: object) -> EdgeProcess:
        edge = EdgeProcess(kafka_options, registered_schemas, tmp_path / "edge.log", options)
        made.append(edge)
        return edge.start(ready=ready)

    yield make
    for edge in made:
        edge.stop()
