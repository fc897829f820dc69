"""What a role is made of, learnt from its own code without a service: for those who look before it runs.

A role is registered with an app that never starts: the sources that its agents declare there are the ones
that a worker will have, so what is drawn or checked cannot differ from what runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from pipelines import account, archive, ingest, usage
from pipelines.errors import AgentRefused, UnknownRole, WorkerError
from pipelines.generations import FIRST, group_of
from pipelines.options import WorkerOptions
from pipelines.role import RoleApp
from pipelines.tools import Tools
from schemas.catalog import LocalSchemas
from schemas.payloads import PayloadCodec
from schemas.wire import WireCodec
from state.schema import UNDECLARED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.kafka.options import KafkaOptions
    from pipelines.extension import Extension, Register
    from pipelines.partitions import Source
    from schemas.topics import TopicSpec
    from state.schema import StoreSchema

ROLES: Mapping[str, Sequence[Register]] = {
    "ingest": (ingest.register,),
    "aggregate": (usage.register,),
    "archive": (archive.register,),
    "account": (account.register,),
}
_NOWHERE: Final = "postgresql://"  # never connected to


@dataclass(frozen=True, slots=True)
class Agent:
    """One agent: a topic in, effects out."""

    name: str
    reads: TopicSpec
    writes: tuple[TopicSpec, ...]
    """Dead letters and late records apart."""
    changelog: TopicSpec | None
    ticks: bool
    """Whether time is moved on its idle input partitions."""
    sink: str
    """What it writes to outside of Kafka; empty = nothing."""
    store: StoreSchema = UNDECLARED
    late_to: TopicSpec | None = None
    """Where records go that come too late."""
    idle_ms: int = 0
    """After how much silence of a partition its time goes on without a record; 0 = never."""
    keeps_position: bool = False
    """Where it begins is kept outside of Kafka, with what it writes there."""
    says_writes: bool = True
    """``writes`` is what it declares, and not what its module's topics let one think."""

    @property
    def appends(self) -> tuple[TopicSpec, ...]:
        """All topics that it appends to, dead letters apart."""
        return self.writes if self.late_to is None else (*self.writes, self.late_to)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A role with its agents, in the order in which they are declared."""

    role: str
    agents: tuple[Agent, ...]
    generation: int = FIRST

    def group(self, prefix: str) -> str:
        """Return the full name of its consumer group."""
        return group_of(prefix, self.role, self.generation)

    @property
    def partitions(self) -> int | None:
        """How many partitions each input has, None if they differ: then state cannot be shared by number."""
        counts = {agent.reads.partitions for agent in self.agents}
        return counts.pop() if len(counts) == 1 else None


def blueprints(extension: Extension, kafka: KafkaOptions) -> list[Blueprint]:
    """Return all roles, ours and those of ``extension``; nothing is asked of a service.

    Raises as ``blueprint``.
    """
    return [blueprint(role, extension, kafka) for role in (*ROLES, *extension.roles)]


def blueprint(role: str, extension: Extension, kafka: KafkaOptions) -> Blueprint:
    """Return one role; ``kafka`` gives the prefix.

    Raises:
        UnknownRole: there is none of that name.
        AgentRefused: its ``register`` raises, or declares no agent.
    """
    roles = {**ROLES, **extension.roles}
    if role not in roles:
        raise UnknownRole(role, roles)
    schemas = LocalSchemas(extension.schemas)
    tools = Tools(WireCodec(schemas, schemas=extension.schemas), PayloadCodec(schemas), extension.all_kinds())
    options = WorkerOptions(kafka, "", _NOWHERE, Path("state"))
    app = _app(role, kafka)
    declare_by_name(app, roles[role], tools, options)
    agents = agents_of(app.sources)
    if not agents:
        where = _file_of(roles[role][0], role)
        raise AgentRefused(where, "register declares no agent", "give it an app.source and an @app.agent")
    if unread := app.unread():
        where = _file_of(roles[role][0], role)
        raise AgentRefused(where, unread, "give what app.source() returned to @app.agent")
    return Blueprint(role, tuple(_with_outputs(role, agents, extension)), extension.generation(role))


def declare(app: RoleApp, registers: Sequence[Register], tools: Tools, options: WorkerOptions) -> None:
    """Have the agents of a role declared; raises what ``register`` does."""
    for register in registers:
        register(app, tools, options)


def declare_by_name(
    app: RoleApp, registers: Sequence[Register], tools: Tools, options: WorkerOptions
) -> None:
    """Do as ``declare``, for people: raises AgentRefused, which names the file, unless it may pass."""
    try:
        declare(app, registers, tools, options)
    except Exception as error:
        if isinstance(error, WorkerError) or getattr(error, "transient", False):
            raise
        problem = f"register raises {type(error).__name__}: {error}"
        file = _file_of(registers[0], app.role)
        raise AgentRefused(file, problem, getattr(error, "remedy", "")) from error


def _file_of(register: Register, role: str) -> Path:
    """Return where a role is written, for people; its name where that is not known."""
    code = getattr(register, "__code__", None)
    return Path(code.co_filename if code is not None else role)


def agents_of(sources: Mapping[str, Source]) -> list[Agent]:
    """Return the agents of a role's sources, in the order in which they are declared."""
    return [
        Agent(
            source.agent, source.spec, source.writes, source.changelog, source.open_deadline is not None,
            source.sink, source.store, source.late_to, source.on_idle.after_ms if source.on_idle else 0,
            source.on_assigned is not None,
        )
        for source in sources.values()
    ]  # fmt: skip


def _app(role: str, kafka: KafkaOptions) -> RoleApp:
    """Return an app that is a role's in all but what runs."""
    group = group_of(kafka.topic_prefix, role, FIRST)
    options = SimpleNamespace(group=group, kafka=kafka, state_dir="state")
    engine: Any = SimpleNamespace(options=options, owners=SimpleNamespace(of=None))
    return RoleApp(role, engine, web_enabled=False)


def _with_outputs(role: str, agents: Sequence[Agent], extension: Extension) -> list[Agent]:
    """Give agents that declare no ``writes`` what is left of their module's topics."""
    owned = extension.access[role].changelogs if role in extension.access else ()
    told = {spec for agent in agents for spec in (agent.reads, agent.changelog, *agent.appends)}
    left = tuple(spec for spec in owned if spec not in told)
    return [
        agent if agent.writes or agent.sink else replace(agent, writes=left, says_writes=not left)
        for agent in agents
    ]
