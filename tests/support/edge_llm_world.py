"""An edge, and a twin that answers for ingest and for models: shared by the tests of one file."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx2
import orjson
import pytest

from connectors.kafka.admin import ensure_topics
from connectors.kafka.options import KafkaOptions
from connectors.registry import Registry
from tests.support.edge_fixtures import EDGE_TOPICS
from tests.support.edge_process import EdgeProcess
from tests.support.llm_twin import LlmTwin
from tests.support.tokens import ISSUER, Issuer, keys_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ops.stack.addresses import Addresses


@dataclass
class LlmWorld:
    """Edges without keys and with, on the same topics; tests keep apart by names of models and streams."""

    edge: EdgeProcess
    guarded: EdgeProcess
    twin: LlmTwin
    issuer: Issuer

    def ask(self, body: object, *, query: str = "", guarded: bool = False, **headers: str) -> httpx2.Response:
        """Send a request to ``/v1/llm/streams``."""
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        edge = self.guarded if guarded else self.edge
        return httpx2.post(
            f"{edge.url}/v1/llm/streams{query}",
            content=content,
            headers={"content-type": "application/json", **headers},
            trust_env=False,
            verify=False,
            timeout=30,
        )

    def asking(self, **fields: Any) -> dict[str, Any]:
        """The fields of a question."""
        return {"messages": [{"role": "user", "content": "hi"}], **fields}


@pytest.fixture(scope="module")
def world(
    stack: Addresses, registered_schemas: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlmWorld]:
    kafka = KafkaOptions(stack.kafka, topic_prefix=f"t{uuid4().hex[:10]}.", client_id="test-llm")
    ensure_topics(kafka, EDGE_TOPICS)
    issuer, folder = Issuer(), tmp_path_factory.mktemp("llm")
    edge = EdgeProcess(kafka, registered_schemas, folder / "edge.log")
    access = {"keys_file": str(keys_file(folder, issuer)), "issuer": ISSUER}
    options = {"access": access, "wait_timeout_ms": 1_000}
    guarded = EdgeProcess(kafka, registered_schemas, folder / "guarded.log", options)
    with closing(LlmTwin(kafka, Registry(registered_schemas))) as twin:
        try:
            edge.start(ready=False)
            guarded.start(ready=False)
            for each in (edge, guarded):
                each.wait_for("/readyz")
            yield LlmWorld(edge, guarded, twin, issuer)
        finally:
            edge.stop()
            guarded.stop()
