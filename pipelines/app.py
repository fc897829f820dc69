"""Composition root of a worker: which roles there are, and one role's process from its options."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import structlog

from connectors import heap
from connectors.files import files_max
from connectors.kafka.admin import check_partitions
from connectors.kafka.errors import TopicsAbsent
from connectors.kafka.membership import CHUNK_BYTES_MAX, ConsumerOptions
from connectors.kafka.needs import have_topics
from connectors.kafka.ports import Backoff, CoordinatorOptions
from connectors.kafka.roster import Roster
from connectors.registry import Registry
from pipelines.blueprint import ROLES, agents_of, declare, declare_by_name
from pipelines.changelogs import retention_of
from pipelines.checks import check_subjects, operations_of, register_schemas, topics_of
from pipelines.controls import Controls
from pipelines.deploying import deploy
from pipelines.engine import Engine, EngineOptions
from pipelines.errors import OptionsRefused, UnknownRole
from pipelines.extension import Extension
from pipelines.generations import folder_of, group_of
from pipelines.handbacks import Orders
from pipelines.metrics import WorkerMetrics
from pipelines.options import EXACTLY_ONCE, bound_problems, time_out_problems
from pipelines.partitions import OpenStore, open_rocks
from pipelines.role import RoleApp
from pipelines.slots import Slot
from pipelines.state_page import add_state_page
from pipelines.tools import Tools
from pipelines.web import add_pages
from schemas.payloads import PayloadCodec
from schemas.preflight import problems_of_all
from schemas.topics import DEAD_REPLAYS, MIB, TOPICS
from schemas.wire import WireCodec
from state.budget import check_machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pipelines.engine import Guarantee
    from pipelines.extension import Register
    from pipelines.options import WorkerOptions
    from schemas.catalog import SchemaSource
    from schemas.kinds import Kind
    from schemas.topics import TopicSpec

log = structlog.get_logger(__name__)

MADE_WAY, AGAIN = 5, 6


def run_role(name: str, options: WorkerOptions, extension: Extension | None = None) -> int:
    """Run one role until a signal stops it; returns the process's exit code (0 = stopped on purpose).

    ``MADE_WAY``: another generation has its place. ``AGAIN``: it was built, is live now, and has to be
    started again at once.

    The name is that of one of ours, or of an agent of ``extension``, a user's own.

    Raises:
        UnknownRole: no such role.
        AgentRefused: its ``register`` raises.
        TopicMismatch: a topic has other partitions than this code says, or a changelog deletes
            what is in use.
        DeployRefused: the code does not fit the state or the schemas of what runs.
        OptionsRefused: time-outs under which a unit of work could be lost, bounds that do not fit together,
            kinds that cannot be served, or a web port in use.
        BudgetRefused: the stores would be given more memory or files than there are.
        UnknownType: schemas are not to be registered, and one of ours is not there.
        RegistryUnavailable: the registry does not answer at the start.
        KafkaUnavailable: Kafka does not answer at the start.
        NotAuthorized: an ACL is missing; all topics that it is missing for are named.
        TopicsAbsent: a topic that it reads or writes is, and it may not make any.
        SluicegateError: what made the worker stop while it ran.
    """
    heap.bound_what_is_free()
    app = build_role(name, options, extension or Extension())
    heap.freeze(heap.SELDOM)
    worker = app.Worker(loglevel="warning", quiet=True, redirect_stdouts=False, override_logging=False)
    worker.spinner = None  # it writes escape codes into logs
    try:
        worker.execute_from_commandline()
    except SystemExit as end:
        if app.fatal is not None:
            raise app.fatal from None
        code = end.code if isinstance(end.code, int) else 1
        if code:
            return code
    return AGAIN if app.runs_again else MADE_WAY if app.makes_way else 0


def build_role(name: str, options: WorkerOptions, extension: Extension) -> RoleApp:
    """Build the Faust app of a role, with its topics and schemas in place; nothing runs yet.

    Raises as ``run_role``, before anything is asked of a service where the settings are at fault.
    """
    roles = {**ROLES, **extension.roles}
    if name not in roles:
        raise UnknownRole(name, roles)
    check_kinds(extension.all_kinds(), options.kafka.kept(TOPICS))
    _check_bounds(name, options)
    check_machine(options.state, files_max())
    _guarantee(name, options)  # what it refuses is said before anything is asked of a service
    web = _web(options)  # asked now: a port in use is said before all else
    registry = Registry(options.registry_url)
    register_schemas(registry, extension, may_register=options.register_schemas)
    tools = tools_of(extension, registry)
    app = assemble(name, options, extension, tools, web=web, declared=declare_by_name)
    app.controls = Controls(options.kafka, name, tools.codec)
    app.orders = Orders(options.kafka, name, extension.generation(name), tools.codec)
    agents = agents_of(app.sources)
    check_subjects(registry, extension, agents)
    prefix = options.kafka.topic_prefix
    absent = have_topics(
        options.kafka,
        extension.all_topics(),
        operations_of(name, agents, prefix),
        create=options.create_topics,
        # Where state was once, another topic may hold it by now, or it is lost: what is on record knows.
        kept=[agent.changelog.named(prefix) for agent in agents if agent.changelog is not None],
    )
    if not options.create_topics:  # an operator made them: their configuration is not ours to read
        check_partitions(options.kafka, topics_of(agents))
    deploy(app, Roster(options.kafka, tools.codec), options, extension)
    changelogs = {each.changelog.named(prefix) for each in app.sources.values() if each.changelog is not None}
    if lacking := changelogs.intersection(absent):
        raise TopicsAbsent(sorted(lacking), undeclared=options.create_topics)
    orders = DEAD_REPLAYS.named(prefix)
    app.engine.last_order = lambda: app.engine.reader.stable_end(orders, 0) - 1
    app.engine.retention = retention_of(options.kafka, app.sources.values())
    if options.web_port:
        log.info("web listens", role=name, host=options.web_host, port=options.web_port)
    return app


def tools_of(extension: Extension, schemas: SchemaSource) -> Tools:
    """Return what agents share, with our own schemas fetched; raises UnknownType, RegistryUnavailable."""
    codec = WireCodec(schemas, schemas=extension.schemas)
    tools = Tools(codec, PayloadCodec(schemas), extension.all_kinds())
    tools.warm()
    return tools


def assemble(
    name: str,
    options: WorkerOptions,
    extension: Extension,
    tools: Tools,
    *,
    web: Mapping[str, Any],
    open_store: OpenStore = open_rocks,
    declared: Callable[[RoleApp, Sequence[Register], Tools, WorkerOptions], None] = declare,
) -> RoleApp:
    """Put a role's app together with its engine and agents; no service is asked anything yet."""
    generation = extension.generation(name)
    slot = Slot(options.state_dir, folder_of(name, generation), options.identity)
    group = group_of(options.kafka.topic_prefix, name, generation)
    engine = Engine(
        EngineOptions(
            kafka=options.kafka,
            group=group,
            transactional_id=f"{group}.{slot.identity}",
            transaction_timeout_ms=options.transaction_timeout_ms,
            state_dir=slot.folder,
            consumer=ConsumerOptions(
                group=group,
                instance_id=f"{name}-{slot.identity}",
                assignment=options.assignment,
                advertised=_advertised(options, web),
                session_timeout_ms=options.session_timeout_ms,
                max_poll_interval_ms=options.max_poll_interval_ms,
                chunk_records_max=options.chunk_events_max,
                handover_records_max=10 * options.chunk_events_max,
                # Two at least are handed over: one is decoded while the other is handled.
                chunk_bytes_max=min(CHUNK_BYTES_MAX, options.handover_mb_max * MIB // 2),
                handover_bytes_max=options.handover_mb_max * MIB,
            ),
            coordinator=CoordinatorOptions(
                commit_interval_ms=options.commit_interval_ms,
                stall_ms_max=options.stall_ms_max,
                attempts_max=options.attempts_max,
                backoff=Backoff(options.retry_backoff_ms, options.retry_backoff_ms_max),
            ),
            unit_records_max=options.unit_records_max,
            unit_bytes_max=options.unit_mb_max * MIB,
            guarantee=_guarantee(name, options),
            state=options.state,
            open_store=open_store,
            code_version=extension.versions.get(name, ""),
            generation=generation,
        ),
        tools,
        WorkerMetrics(name),
    )
    app = RoleApp(name, engine, slot=slot, **web)
    add_pages(app)
    add_state_page(app, options.state_queries, options.web_host)
    declared(app, {**ROLES, **extension.roles}[name], tools, options)
    return app


def _guarantee(name: str, options: WorkerOptions) -> Guarantee:
    if name not in options.at_least_once:
        return "exactly-once"
    if name in EXACTLY_ONCE:
        raise OptionsRefused(
            f"role {name} is exactly once: clients and windows rely on it",
            remedy=f"Take {name} out of SLUICEGATE_WORKER__AT_LEAST_ONCE.",
        )
    return "at-least-once"


def _check_bounds(name: str, options: WorkerOptions) -> None:
    """Look again, as a program of a user's own gives options without the settings' checks."""
    problems = time_out_problems(options, at_least_once=name in options.at_least_once)
    problems += bound_problems(options)
    if problems:
        raise OptionsRefused("; ".join(problems))


def check_kinds(kinds: Iterable[Kind], topics: Sequence[TopicSpec] = TOPICS) -> None:
    """Raise OptionsRefused, with every problem, for kinds whose policies cannot be kept."""
    if problems := problems_of_all(kinds, topics):
        raise OptionsRefused(
            f"kinds cannot be served: {'; '.join(problems)}", remedy="Correct the policies that it names."
        )


def _web(options: WorkerOptions) -> dict[str, Any]:
    if not options.web_port:
        return {"web_enabled": False}
    _check_free(options.web_host, options.web_port)
    return {
        "web_enabled": True,
        "web_host": options.web_host,
        "web_bind": options.web_host,
        "web_port": options.web_port,
    }


def _advertised(options: WorkerOptions, web: Mapping[str, Any]) -> str:
    """Where other workers of the role send readers of state to."""
    if not web["web_enabled"]:
        return ""
    host = options.web_advertised_host or options.web_host
    if host in ("0.0.0.0", "::"):  # noqa: S104  # compared with, not bound to
        host = socket.gethostname()
    return f"[{host}]:{web['web_port']}" if ":" in host else f"{host}:{web['web_port']}"


def _check_free(host: str, port: int) -> None:
    """Ask now: Faust would say no more than that an address is in use, after all else was started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()  # two may bind one address under SO_REUSEADDR; only one may listen
        except OSError as error:
            raise OptionsRefused(
                f"the worker's web cannot listen on {host}:{port}: {error.strerror}",
                remedy="Set SLUICEGATE_WORKER__WEB_PORT to another, or to 0 for none, as for a second worker "
                "on one machine.",
            ) from None
