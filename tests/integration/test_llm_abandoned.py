"""A question that nobody took: ingest times its stream out, and a worker that comes later adds nothing."""

from __future__ import annotations

from connectors.llm.clock import now_us
from connectors.llm.loopback.server import LoopbackThread
from schemas.envelope import Event
from schemas.topics import DEAD_LETTERS, INPUT, OUTPUT
from tests.support.llm_world import LlmWorld, until
from tests.support.read_topic import read_committed
from tests.support.worker_process import WorkerProcess


def test_a_question_that_nobody_took_leaves_no_dead_letter(stack, kafka_options, registry, topics, tmp_path):
    topics()
    world = LlmWorld(kafka_options, registry, tmp_path)
    ingest = WorkerProcess(stack, kafka_options, tmp_path / "ingest", roles="ingest")

    def types(spec, enough):
        found = read_committed(kafka_options, spec, enough, quiet_s=0.3)
        events = [world.wire.decode_event(message.value()) for message in found]
        return [event.type for event in events if event.type != "tick"]

    try:
        with LoopbackThread() as loopback:
            payload = world.payloads.encode("open", {"idle_timeout_ms": 500})
            opened = Event(
                "open-1", "default", "a-1", -1, "llm", "open", now_us(), "edge", "", "", "", "", 0, 0,
                *payload,
            )  # fmt: skip
            world.append(INPUT, opened.key, world.wire.encode_event(opened))
            world.ask("a-1", opened=True, open_id="open-1")
            assert types(OUTPUT, 2) == ["open", "end"]
            base_url = loopback.base_url("anthropic")
            world.worker({"here": {"shape": "anthropic", "base_url": base_url, "models": ["words"]}})
            until(world.is_at_rest)
            (row,) = world.attempts("a-1")
            assert (row.attempt, row.state, row.end_reason) == (0, "refused", "timed_out")
            assert not loopback.seen
            assert types(INPUT, 1) == ["open"], "another end would be a dead letter"
            assert read_committed(kafka_options, DEAD_LETTERS, 0, quiet_s=0.3) == []
    finally:
        world.close()
        ingest.kill()
