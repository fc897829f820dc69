"""THE table of contenders: the provider itself, ours in front of it, and LiteLLM's proxy in front of it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self

import psutil

from benchmarks.edge.servers import Edge, Server
from benchmarks.llm.provider import MODEL
from benchmarks.peers import environments
from ops.stack.state import read_state

if TYPE_CHECKING:
    from types import TracebackType

    from benchmarks.llm.bench import LlmBench
    from benchmarks.llm.provider import Provider

DURABLE: Final = "in Kafka, in order, exactly once, before it is shown; replayable"
PASSED_ON: Final = "passed on, kept nowhere"
CALLS_MAX: Final = 10_000


class Part(NamedTuple):
    """What a process and its children have taken and hold."""

    cpu_s: float
    rss_mb: float


class Contender(Protocol):
    """A running server that answers ``POST /v1/chat/completions``."""

    name: str
    guarantee: str
    port: int

    def __enter__(self) -> Self:
        """Start it."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        ...

    def parts(self) -> dict[str, Part]:
        """Give its process trees by name; ``broker`` is told apart."""
        ...


class Sluicegate(Edge):
    """Ours: an edge, a worker with the role ``ingest``, and LLM workers."""

    guarantee = DURABLE

    def __init__(self, bench: LlmBench, provider: Provider, name: str, *, workers: int = 1) -> None:
        super().__init__(bench.of_edge(), name, "llm", streams=0)
        self._provider = provider
        self._workers = workers
        self._names: list[str] = []

    def before(self) -> None:
        """Start the workers; see Edge."""
        ours = os.environ | self.environment()
        self._run_as("ingest", ("worker", "--roles", "ingest"), ours)
        target = {"shape": "openai-chat", "base_url": f"{self._provider.url}/v1", "models": [MODEL]}
        told = {
            "SLUICEGATE_LLM__PROVIDERS": json.dumps({"here": target}),
            "SLUICEGATE_LLM__CALLS_MAX": str(CALLS_MAX),
        }
        for number in range(self._workers):
            self._run_as(f"llm-{number}", ("llm",), ours | told)
        self._names.append("edge")  # which is started next

    def parts(self) -> dict[str, Part]:
        """See Contender."""
        found = {name: part_of(process.pid) for name, process in zip(self._names, self._started, strict=True)}
        broker = read_state(self.bench.settings.data_dir.absolute()).get("kafka")
        return found | ({"broker": part_of(broker.process.pid)} if broker else {})  # else it is another's

    def _run_as(self, name: str, arguments: tuple[str, ...], env: dict[str, str]) -> None:
        folder = {"SLUICEGATE_DATA_DIR": str(self.folder / name)}
        self._names.append(name)
        self._run((sys.executable, "-m", "ops", *arguments), env | folder)


class LiteLlm(Server):
    """LiteLLM's proxy. It gets nothing of this process's environment, and a home of its own."""

    guarantee = PASSED_ON

    def __init__(self, bench: LlmBench, provider: Provider, name: str, *, workers: int) -> None:
        super().__init__(bench.of_edge(), name, f"litellm-{workers}")
        self._provider = provider
        self._workers = workers

    def start(self) -> None:
        """See Server."""
        python = Path(environments.python(self.bench.settings, "litellm"))
        config = self.folder / "config.yaml"  # JSON is YAML
        model = {"model": f"openai/{MODEL}", "api_base": f"{self._provider.url}/v1", "api_key": "none"}
        config.write_text(
            json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": model}]}), "utf-8"
        )
        env = {
            "PATH": f"{python.parent}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches one from the network
            "LITELLM_LOG": "ERROR",
            # It asks nobody for a key, as our edge does here.
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        self._run(
            (
                str(python.with_name("litellm")), "--config", str(config), "--host", "127.0.0.1",
                "--port", str(self.port), "--num_workers", str(self._workers), "--telemetry", "False",
            ),
            env,
        )  # fmt: skip
        self._wait_for(self.port)

    def parts(self) -> dict[str, Part]:
        """See Contender."""
        return {"proxy": part_of(self._started[0].pid)}

    def send(self, stream: int, seq: int) -> None:
        """Nothing is published to a proxy."""
        raise NotImplementedError


class Direct:
    """No server: clients ask the provider itself."""

    name = "direct to the provider"
    guarantee = PASSED_ON

    def __init__(self, provider: Provider) -> None:
        self.port = provider.port

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def parts(self) -> dict[str, Part]:
        """See Contender."""
        return {}


def part_of(pid: int) -> Part:
    """Return what a process and its children take."""
    cpu_s = rss = 0.0
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                cpu_s += sum(process.cpu_times()[:2])
                rss += process.memory_info().rss
    return Part(cpu_s, rss / 1_048_576)


def used(before: dict[str, Part], after: dict[str, Part], tokens: int) -> dict[str, object]:
    """Give processor seconds a million tokens, of all parts and the broker apart, and memory."""
    cpu = {name: (part.cpu_s - before[name].cpu_s) * 1e6 / max(tokens, 1) for name, part in after.items()}
    ours = {name: value for name, value in cpu.items() if name != "broker"}
    found: dict[str, object] = {"cpu_s_per_million": round(sum(ours.values()), 1)} if ours else {}
    if len(cpu) > 1:
        found |= {f"cpu_s_per_million_{name}": round(value, 1) for name, value in cpu.items()}
    if after:
        rss = sum(part.rss_mb for name, part in after.items() if name != "broker")
        found["rss_mb"] = round(rss)
    return found
