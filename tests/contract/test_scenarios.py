"""The same scenarios over every transport, against real edge processes on real Kafka (``play.py``)."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from connectors.kafka.admin import ensure_topics
from connectors.kafka.options import KafkaOptions
from connectors.registry import Registry
from tests.contract.drivers import DRIVERS
from tests.contract.play import Play
from tests.support.edge_fixtures import EDGE_TOPICS
from tests.support.edge_process import EdgeProcess
from tests.support.ingest_twin import IngestTwin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ops.stack.addresses import Addresses

pytestmark = pytest.mark.timeout(240)

QUICK = {"ahead_wait_ms": 1_500, "drain_ms": 500}
SCENARIOS: dict[str, dict[str, Any]] = {
    file.stem: yaml.safe_load(file.read_text())
    for file in sorted((Path(__file__).parent / "scenarios").glob("*.yaml"))
}
PLAYS = [
    pytest.param(name, first, resuming, id=f"{name}-{first}" + (f"-{resuming}" if first != resuming else ""))
    for name, scenario in SCENARIOS.items()
    for first in DRIVERS
    for resuming in DRIVERS
    if first == resuming or scenario.get("cross")
]


class Stage:
    """Topics, who writes them, and an edge for each set of options: the plays share them."""

    def __init__(self, stack: Addresses, registry_url: str, folder: Path) -> None:
        prefix = f"t{uuid.uuid4().hex[:10]}."
        self._kafka = KafkaOptions(bootstrap_servers=stack.kafka, topic_prefix=prefix)
        self._registry_url = registry_url
        self._folder = folder
        self._edges: dict[str, EdgeProcess] = {}
        ensure_topics(self._kafka, EDGE_TOPICS)
        self.twin = IngestTwin(self._kafka, Registry(registry_url))

    def edge(self, options: dict[str, Any]) -> EdgeProcess:
        """The edge with these options; started again if a play has left it dead."""
        options = QUICK | options
        name = repr(sorted(options.items()))
        edge = self._edges.get(name)
        if edge is None:
            log = self._folder / f"edge-{len(self._edges)}.log"
            edge = self._edges[name] = EdgeProcess(self._kafka, self._registry_url, log, options)
        if edge.process is None or edge.process.poll() is not None:
            edge.start()
        return edge

    def close(self) -> None:
        for edge in self._edges.values():
            edge.stop()
        self.twin.close()


@pytest.fixture(scope="module")
def stage(
    stack: Addresses, registered_schemas: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    stage = Stage(stack, registered_schemas, tmp_path_factory.mktemp("stage"))
    yield stage
    stage.close()


@pytest.mark.parametrize(("name", "first", "resuming"), PLAYS)
def test_a_scenario_holds_over_a_transport(stage, name, first, resuming):
    scenario = SCENARIOS[name]
    play = Play(
        stage.twin,
        stage.edge(scenario.get("options", {})),
        kind=scenario["kind"],
        first=DRIVERS[first],
        resuming=DRIVERS[resuming],
    )
    play.perform(scenario["steps"])


def test_a_scenario_that_expects_what_does_not_happen_fails(stage):
    steps = [{"write": "open"}, {"join": {"client": "a"}}, {"sees": {"client": "a", "events": ["log 0"]}}]
    for driver in DRIVERS.values():
        play = Play(stage.twin, stage.edge({}), kind="log", first=driver, resuming=driver)
        with pytest.raises(AssertionError, match="step 3"):
            play.perform(steps)
