"""Topics, a stand-in for ingest, and edges that several tests share, one after the other: a start is dear."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from connectors.kafka.admin import ensure_topics
from connectors.kafka.options import KafkaOptions
from connectors.registry import Registry
from tests.support.edge_fixtures import EDGE_TOPICS
from tests.support.edge_process import EdgeProcess
from tests.support.ingest_twin import IngestTwin
from tests.support.topics import drop_topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ops.stack.addresses import Addresses


@pytest.fixture(scope="module")
def stage(
    stack: Addresses, registered_schemas: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    stage = Stage(stack, registered_schemas, tmp_path_factory.mktemp("stage"))
    yield stage
    stage.close()


@pytest.fixture
def make_edge(stage: Stage) -> Callable[..., EdgeProcess]:
    """Make an edge, or take the one that has the same options already."""
    return stage.edge


@pytest.fixture
def twin(stage: Stage) -> IngestTwin:
    """The stage's stand-in for ingest."""
    return stage.twin


class Stage:
    """An edge for each set of options; tests keep apart by the names of their streams."""

    def __init__(self, stack: Addresses, registry_url: str, folder: Path) -> None:
        prefix = f"t{uuid.uuid4().hex[:10]}."
        self.kafka = KafkaOptions(bootstrap_servers=stack.kafka, topic_prefix=prefix)
        self._registry_url = registry_url
        self._folder = folder
        self._edges: dict[str, EdgeProcess] = {}
        ensure_topics(self.kafka, EDGE_TOPICS)
        self.registry = Registry(registry_url)
        self.twin = IngestTwin(self.kafka, self.registry)

    def edge(self, **options: Any) -> EdgeProcess:
        """The edge with these options; started again if a test has left it dead."""
        name = repr(sorted(options.items()))
        edge = self._edges.get(name)
        if edge is None:
            log = self._folder / f"edge-{len(self._edges)}.log"
            edge = self._edges[name] = EdgeProcess(self.kafka, self._registry_url, log, options)
        if edge.process is None or edge.process.poll() is not None:
            edge.start()
        return edge

    def close(self) -> None:
        """End all of it."""
        for edge in self._edges.values():
            edge.stop()
        self.twin.close()
        drop_topics(self.kafka)
