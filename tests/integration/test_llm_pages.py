"""What a machine asks an LLM worker, and where its time went: metrics that agree with the ledger."""

from __future__ import annotations

import re
import time

import httpx2
import pytest

from connectors.llm.loopback.server import LoopbackThread
from tests.support.llm_failpoints import GATE, HELD_UP
from tests.support.llm_world import TOPICS, LlmWorld, until
from tests.support.ports import free_port


@pytest.fixture
def world(kafka_options, registry, topics, tmp_path):
    topics(*TOPICS)
    world = LlmWorld(kafka_options, registry, tmp_path)
    yield world
    world.close()


def test_it_says_whether_it_is_ready_and_what_it_did(world, tmp_path):
    port = free_port()
    held_up = tmp_path / "data" / HELD_UP
    held_up.parent.mkdir()
    held_up.touch()
    with LoopbackThread() as loopback, httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
        base = loopback.base_url("anthropic")
        worker = world.worker(
            {
                "bad": {"shape": "anthropic", "base_url": base, "models": ["words?fault=unauthorized"]},
                "good": {"shape": "anthropic", "base_url": base, "models": ["words?tokens=7"]},
            },
            web_port=port,
            gate_functions=GATE,
        )
        world.ask("a-1")
        ledger = ["the ledger of the last day is being read"]
        until(lambda: causes(client) == ledger)
        assert client.get("/healthz").status_code == 200
        held_up.unlink()
        assert world.answer("a-1").end == "completed"
        until(lambda: causes(client) == [])
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
        assert abs(skew_s(said)) < 0.5, "one machine, one clock"
        assert worker.stop() == 0


def causes(client: httpx2.Client) -> list[str] | None:
    """Why it is not ready, by its page; None = nobody listens yet."""
    try:
        ready = client.get("/readyz")
    except httpx2.ConnectError:
        return None
    assert (ready.status_code == 200) == (not ready.json()["causes"])
    return ready.json()["causes"]


def skew_s(metrics: str) -> float:
    (said,) = re.findall(r"^sluicegate_llm_clock_skew_seconds (\S+)", metrics, re.MULTILINE)
    return float(said)


@pytest.mark.parametrize("minutes", [-2, 2], ids=["late", "early"])
def test_a_worker_whose_clock_is_wrong_gives_each_request_its_time_and_says_so(world, tmp_path, minutes):
    """Its clock alone: Kafka's and the test's are right."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import time\nright = time.time_ns\ntime.time_ns = lambda: right() + {minutes} * 60_000_000_000\n"
    )
    port = free_port()
    with LoopbackThread() as loopback, httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
        base = loopback.base_url("anthropic")
        world.ask("old", route="hurried")
        world.route("hurried", candidates=[{"target": "good", "model": "words?tokens=7"}], queue_ms=1_000)
        time.sleep(1.5)
        worker = world.worker(
            {"good": {"shape": "anthropic", "base_url": base, "models": ["words?tokens=7"]}},
            web_port=port,
            python_path=tmp_path,
        )
        world.ask("new", deadline_ms=30_000)
        old, new = world.answers("old", "new")
        assert (old.end, new.end) == ("timed_out", "completed")
        assert skew_s(client.get("/metrics").text) == pytest.approx(minutes * 60, abs=5)
        assert "llm_clock_is_wrong" in worker.log.read_text()
