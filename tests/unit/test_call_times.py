"""The example call_times: as many windows close as a batch may have opened, or they would pile up."""

from __future__ import annotations

from pathlib import Path

from schemas.topics import OUTPUT, STREAM_PARTITIONS, partition_of

AGENTS = Path(__file__).parents[2] / "docs/examples/agents"


def test_windows_of_a_thousand_models_and_more_close_with_the_next_batch(start_agent):
    agent = start_agent("call_times", AGENTS)
    together = partition_of(b"other", STREAM_PARTITIONS)
    models = [f"m{n}" for n in range(6_000) if partition_of(f"m{n}".encode(), STREAM_PARTITIONS) == together]
    assert len(models) > 1_100

    def feed(*named: str) -> None:
        usage = {"provider": "acme", "latency_ms": 10}
        agent.feed(*(agent.event("usage", {**usage, "model": model}) for model in named), topic=OUTPUT)

    feed(*models)
    agent.advance(17)
    feed(*["other"] * len(models))
    said = [window["model"] for window in agent.values("examples.call-windows.v1")]
    assert sorted(said) == sorted(models)
