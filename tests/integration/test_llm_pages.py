"""What a machine asks an LLM worker, and where its time went: metrics that agree with the ledger."""

from __future__ import annotations

import time

import httpx2
import pytest

from connectors.llm.loopback.server import LoopbackThread
from tests.support.edge_process import free_port
from tests.support.llm_world import TOPICS, LlmWorld


@pytest.fixture
def world(kafka_options, registry, topics, tmp_path):
    topics(*TOPICS)
    world = LlmWorld(kafka_options, registry, tmp_path)
    yield world
    world.close()


def test_it_says_whether_it_is_ready_and_what_it_did(world):
    port = free_port()
    with LoopbackThread() as loopback, httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
        base = loopback.base_url("anthropic")
        worker = world.worker(
            {
                "bad": {"shape": "anthropic", "base_url": base, "models": ["words?fault=unauthorized"]},
                "good": {"shape": "anthropic", "base_url": base, "models": ["words?tokens=7"]},
            },
            web_port=port,
        )
        world.ask("a-1")
        assert world.answer("a-1").end == "completed"
        deadline = time.monotonic() + 30
        while (ready := client.get("/readyz")).status_code != 200:
            assert time.monotonic() < deadline, ready.text
            time.sleep(0.1)
        assert client.get("/healthz").json() == {"status": "alive"}
        assert client.get("/nowhere").status_code == 404
        assert client.post("/metrics").status_code == 405
        said = client.get("/metrics").text
        (row,) = [row for row in world.attempts("a-1") if row.state == "completed"]
        labels = 'model="words?tokens=7",provider="good"'
        assert f'sluicegate_llm_attempts_total{{error="",{labels},state="completed"}} 1.0' in said
        assert 'error="unauthorized",model="words?fault=unauthorized",provider="bad",state="failed"' in said
        out = f'sluicegate_llm_tokens_total{{direction="out",{labels},source="provider"}}'
        assert f"{out} {float(row.output_tokens)}" in said
        assert 'sluicegate_llm_ends_total{reason="completed"} 1.0' in said
        assert "sluicegate_llm_operations 0.0" in said
        assert worker.stop() == 0
