"""A worker of the failing agent (``failing_agent``) and a command line, as a user has them."""

from __future__ import annotations

import json
import shutil
import socket
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx2
from confluent_kafka import Producer

from connectors.registry import Registry
from schemas.topics import DEAD_LETTERS
from schemas.wire import WireCodec
from tests.support import failing_agent
from tests.support.command_line import CommandLine
from tests.support.read_topic import read_committed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from ops.stack.addresses import Addresses
    from schemas.topics import TopicSpec


class Deployment(CommandLine):
    """A worker of the failing agent in one role, and all that was published to it."""

    def __init__(self, folder: Path, stack: Addresses, kafka: KafkaOptions, role: str) -> None:
        super().__init__(folder, stack, kafka)
        self.kafka, self.role = kafka, role
        self.mended = folder / "mended"
        (folder / "agents").mkdir()
        shutil.copy(failing_agent.__file__, folder / "agents" / f"{role}.py")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.web = f"http://127.0.0.1:{port}"
        self.environment |= {
            "SLUICEGATE_PIPELINES": str(folder / "agents"),
            "SLUICEGATE_WORKER__WEB_PORT": str(port),
            "MENDED": str(self.mended),
        }
        self.codec = WireCodec(Registry(stack.registry_url))
        self.producer = Producer(kafka.client_config())

    @property
    def input(self) -> str:
        """The agent's input as it stands in Kafka."""
        return f"{self.kafka.topic_prefix}{self.role}.input.v1"

    @property
    def output(self) -> TopicSpec:
        return replace(failing_agent.OUTPUT, name=f"{self.role}.output.v1")

    def publish(self, partition: int, *values: str, key: str = "key") -> None:
        for value in values:
            self.producer.produce(self.input, value, f"{key}-{partition}", partition)
        assert self.producer.flush(30) == 0

    def outputs(self, enough: int) -> dict[str, list[str]]:
        """The values of each key that were counted; fails unless the counts are 1, 2, 3, …"""
        found: dict[str, list[str]] = defaultdict(list)
        for message in read_committed(self.kafka, self.output, enough):
            key, value = (message.key() or b"").decode(), message.value() or b""
            found[key].append(value[failing_agent.COUNT.size :].decode())
            assert failing_agent.COUNT.unpack_from(value)[0] == len(found[key]), "once, and in order"
        return found

    def letters(self, enough: int) -> list[tuple[str, int, str, int, int]]:
        messages = read_committed(self.kafka, DEAD_LETTERS, enough)
        found = [self.codec.decode(m.value() or b"", DEAD_LETTERS.subject) for m in messages]
        return [
            (one["value"].decode(), one["partition"], one["cause"], one["attempts"], one["offset"])
            for one in found
        ]

    def run_worker(self) -> None:
        """Start the role's worker."""
        self._worker = self.worker(self.role)

    def supervise(self, holds: Callable[[], bool]) -> int:
        """Start the worker again whenever it ends, as systemd would, until something holds: how often."""
        ends = 0
        while True:
            running = self._worker
            self.until(lambda: running.poll() is not None or holds(), "it ends or goes on", log="worker")  # noqa: B023
            if running.poll() is None:
                return ends
            assert running.returncode != 0
            ends += 1
            self.run_worker()

    def letters_now(self) -> int:
        return len(read_committed(self.kafka, DEAD_LETTERS, 0, quiet_s=0.2))

    def told(self, *words: str) -> dict[str, Any]:
        code, out, err = self.run(*words, "--json")
        assert code == 0, err
        return dict(json.loads(out))

    def ready(self) -> dict[str, Any]:
        try:
            return dict(httpx2.get(f"{self.web}/readyz", trust_env=False, verify=False).json())
        except httpx2.TransportError:
            return {}

    def standstills(self) -> list[tuple[int, int]]:
        return [(at["partition"], at["offset"]) for at in self.ready().get("standstills", ())]

    def until_ready(self, log: str) -> None:
        self.until(lambda: len(self.ready().get("partitions", ())) == 4, "it reads", log=log)
