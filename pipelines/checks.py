"""What a worker finds out at its start, asked for all roles at once and without changing anything."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from connectors.kafka.access import check_topics
from connectors.kafka.admin import describe_topics
from connectors.kafka.errors import NotAuthorized
from connectors.kafka.roster import Roster
from connectors.postgres.errors import SinkUnfit
from connectors.postgres.migrate import unapplied
from connectors.postgres.options import PostgresOptions
from connectors.registry import Registry
from pipelines.blueprint import blueprint
from pipelines.deployment import Deployment
from pipelines.errors import DeployRefused, WorkerError
from pipelines.generations import changelog_of
from schemas.access import ROLES as ACCESS
from schemas.access import Access
from schemas.catalog import subjects
from schemas.errors import IncompatibleSchema, UnknownType
from schemas.preflight import problems_of_all
from schemas.topics import DEAD_LETTERS, TOPICS
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from connectors.kafka.admin import TopicState
    from connectors.kafka.options import KafkaOptions
    from pipelines.blueprint import Agent, Blueprint
    from pipelines.extension import Extension
    from pipelines.options import WorkerOptions
    from schemas.access import Operation
    from schemas.catalog import SchemaSource
    from schemas.topics import TopicSpec

ARCHIVE: Final = "archive"
"""The role that writes to PostgreSQL."""
# As `ensure_topics` has it: what differs in these cannot be lived with.
_BINDING = ("cleanup.policy", "message.timestamp.type")


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    """``kinds``, ``agents``, ``schemas``, ``topics``, ``co-partitioning``, ``access``, ``state``,
    ``archive`` or ``clocks``."""
    role: str
    """Empty = all of them."""
    problem: str
    """Empty = none."""
    warning: str = ""
    """What keeps nothing from starting; empty = nothing."""
    after: str = ""
    """Migrations to be applied before, with commas between them: it fits then."""


def check(blueprints: Sequence[Blueprint], extension: Extension, options: WorkerOptions) -> Iterator[Finding]:
    """Look at all that would keep a worker from starting, or make it do harm; nothing is changed.

    Raises:
        KafkaUnavailable, RegistryUnavailable, SinkUnavailable, SinkTimeout: no answer.
    """
    yield check_kinds(extension, options.kafka.kept(TOPICS))
    registry = Registry(options.registry_url)
    try:
        yield Finding("schemas", "", "; ".join(_schema_problems(registry, extension, options)))
        roster = Roster(options.kafka, WireCodec(registry, schemas=extension.schemas))
        try:
            for one in blueprints:
                yield from _role(one, extension, options, roster, registry)
        finally:
            roster.close()
    finally:
        registry.close()
    if options.postgres_dsn is not None and any(one.role == ARCHIVE for one in blueprints):
        yield check_archive(options.postgres_dsn)


def check_kinds(extension: Extension, topics: Sequence[TopicSpec]) -> Finding:
    """Look at the policies of all kinds beside what topics keep; nobody needs to be asked."""
    return Finding("kinds", "", "; ".join(problems_of_all(extension.all_kinds(), topics)))


def check_archive(dsn: str) -> Finding:
    """Look whether the archive could write to a database as it is.

    Raises:
        SinkUnavailable, SinkTimeout: no answer.
    """
    try:
        names = unapplied(PostgresOptions(dsn, application_name="sluicegate-preflight"))
    except SinkUnfit as error:
        return Finding("archive", ARCHIVE, f"{error}. {error.remedy}")
    later = f"the start applies to PostgreSQL what it lacks: {', '.join(names)}" if names else ""
    return Finding("archive", ARCHIVE, "", later)


def check_offline(extension: Extension, kafka: KafkaOptions) -> Iterator[Finding]:
    """Look at what code alone tells: kinds, and of each role of a user's whether its agents can be declared.

    A store whose form or changelog cannot be is among that; nobody is asked.
    """
    yield check_kinds(extension, kafka.kept(TOPICS))
    for role in extension.roles:
        try:
            one = blueprint(role, extension, kafka)
        except WorkerError as refused:
            yield Finding("agents", role, f"{refused}. {refused.remedy}")
        else:
            lacking = unwritable(one.agents, {*subjects(), *extension.schemas}.__contains__)
            unasked = f"{'; '.join(lacking)}. {SUBJECT_REMEDY} The registry was not asked"
            yield Finding("agents", role, "", unasked if lacking else "")
            yield Finding("co-partitioning", role, "; ".join(_uneven(one, {}, kafka.topic_prefix)))


def register_schemas(registry: Registry, extension: Extension, *, may_register: bool) -> None:
    """Register what is missing; nothing of a user's is registered if one of it cannot be.

    Raises:
        DeployRefused: a schema would break readers or what is written, or is missing and may not be made.
        UnknownType: as above, of one of ours, at the first use.
        RegistryUnavailable: no answer.
    """
    problems = [
        problem
        for subject, text in extension.schemas.items()
        for problem in _subject_problems(registry, subject, text, may_register=may_register)
    ]
    if problems:
        raise DeployRefused(f"schemas do not fit what runs: {'; '.join(problems)}", remedy=_SCHEMA_REMEDY)
    if not may_register:
        return
    try:
        registry.register_all()
        for subject, text in extension.schemas.items():
            registry.register(subject, text)
    except IncompatibleSchema as error:
        raise DeployRefused(str(error), remedy=error.remedy) from error


_SCHEMA_REMEDY = (
    "Give a new field a default, and let only a field with one go; else write to a new version of the topic "
    "with a subject of its own. `sluicegate schemas check FILE` tries it."
)


SUBJECT_REMEDY: Final = (
    "Write schemas/<subject>.avsc beside the agent's module, or register it (`sluicegate schemas register`); "
    'values that are not in the registry\'s format have subject="".'
)


def check_subjects(registry: SchemaSource, extension: Extension, agents: Sequence[Agent]) -> None:
    """Look whether what agents say that they write has a schema; after ``register_schemas``.

    Raises:
        DeployRefused: a topic's subject has none, which would make a dead letter of each result.
        RegistryUnavailable: no answer.
    """
    if lacking := unwritable(agents, lambda subject: _has_schema(registry, extension, subject)):
        raise DeployRefused("; ".join(lacking), remedy=SUBJECT_REMEDY)


def unwritable(agents: Iterable[Agent], has_schema: Callable[[str], bool]) -> list[str]:
    """Name the topics that agents write to, each with its subject, which has no schema; ours have all."""
    specs = dict.fromkeys(spec for agent in agents for spec in agent.writes if spec not in TOPICS)
    return [
        f"{spec.name}: there is no schema of its subject {spec.subject}"
        for spec in specs
        if spec.subject and not has_schema(spec.subject)
    ]


def _has_schema(registry: SchemaSource, extension: Extension, subject: str) -> bool:
    if subject in subjects() or subject in extension.schemas:
        return True
    try:
        registry.id_of(subject)
    except UnknownType:
        return False
    return True


def operations_of(role: str, agents: Sequence[Agent], prefix: str) -> dict[str, tuple[Operation, ...]]:
    """Return what a role does with each topic, by its full name."""
    access = ACCESS[role] if role in ACCESS else access_of(agents)
    return {prefix + topic: operations for topic, operations in access.operations().items()}


def access_of(agents: Sequence[Agent]) -> Access:
    """Return what a user's role was seen to declare, and not what its module says of itself."""
    return Access(
        reads=tuple(agent.reads for agent in agents),
        writes=(
            DEAD_LETTERS,
            *(agent.reads for agent in agents if agent.ticks),
            *(spec for agent in agents for spec in agent.appends),
        ),
        changelogs=tuple(agent.changelog for agent in agents if agent.changelog is not None),
    )


def _schema_problems(registry: Registry, extension: Extension, options: WorkerOptions) -> Iterator[str]:
    for subject, text in {**subjects(), **extension.schemas}.items():
        yield from _subject_problems(registry, subject, text, may_register=options.register_schemas)


def _subject_problems(registry: Registry, subject: str, text: str, *, may_register: bool) -> Iterator[str]:
    if registry.is_registered(subject, text):
        return
    if problems := registry.check(subject, text):
        yield f"{subject}: {', '.join(problems)}"
    elif not may_register:
        yield f"{subject}: this text is not registered, and SLUICEGATE_REGISTRY__REGISTER_SCHEMAS is false"


def _role(
    one: Blueprint, extension: Extension, options: WorkerOptions, roster: Roster, registry: Registry
) -> Iterator[Finding]:
    prefix = options.kafka.topic_prefix
    used = topics_of(one.agents)
    there = {state.name: state for state in describe_topics(options.kafka, used)}
    made = {spec.name for spec in extension.all_topics()} if options.create_topics else set()
    problems = [problem for spec in used for problem in _topic_problems(spec, there, options, made)]
    lacking, perhaps = (
        unwritable(
            [agent for agent in one.agents if agent.says_writes is said],
            lambda subject: _has_schema(registry, extension, subject),
        )
        for said in (True, False)
    )
    problems += [f"{'; '.join(lacking)}. {SUBJECT_REMEDY}"] if lacking else []
    warning = f"{'; '.join(perhaps)}. {SUBJECT_REMEDY}" if perhaps else ""
    yield Finding("topics", one.role, "; ".join(problems), warning)
    yield Finding("co-partitioning", one.role, "; ".join(_uneven(one, there, prefix)))
    try:
        check_topics(options.kafka, operations_of(one.role, one.agents, prefix))
    except NotAuthorized as error:
        yield Finding("access", one.role, f"{error}. {error.remedy}")
    else:
        yield Finding("access", one.role, "")
    generation = extension.generation(one.role)
    stores = {
        changelog_of(agent.changelog, generation): agent
        for agent in one.agents
        if agent.changelog is not None
    }
    deployment = Deployment(
        one.role,
        {changelog: agent.store for changelog, agent in stores.items()},
        kafka=options.kafka,
        roster=roster,
        inputs={changelog: agent.reads for changelog, agent in stores.items()},
        migrations=[
            replace(each, changelog=changelog_of(each.changelog, generation))
            for each in extension.all_migrations()
        ],
        generation=generation,
    )
    try:
        first = deployment.to_apply(options.migrate.split(","))
        state = deployment.problems(first)
    except UnknownType:  # of a deployment that never ran: its schema comes with the first start
        first, state = [], []
    names = "" if state else ",".join(dict.fromkeys(migration.name for migration in first))
    yield Finding("state", one.role, "; ".join(state), after=names)


def topics_of(agents: Sequence[Agent]) -> list[TopicSpec]:
    """Return all topics that a role's agents read and write."""
    changelogs = [agent.changelog for agent in agents if agent.changelog is not None]
    specs = [spec for agent in agents for spec in (agent.reads, *agent.appends)]
    return list(dict.fromkeys([*specs, *changelogs, DEAD_LETTERS]))


def _topic_problems(
    spec: TopicSpec, there: dict[str, TopicState], options: WorkerOptions, made: Container[str]
) -> Iterator[str]:
    """Say what is wrong with a topic; ``made``: names of those that the start makes."""
    name = spec.named(options.kafka.topic_prefix)
    state = there.get(name)
    if state is None:
        if not options.create_topics:
            yield f"{name} is missing, and SLUICEGATE_KAFKA__CREATE_TOPICS is false"
        elif spec.name not in made:
            yield f"{name} is missing, and not in TOPICS of the agent's module, by which the start makes it"
        return
    if state.partitions != spec.partitions:
        yield f"{name} has {state.partitions} partitions, this code says {spec.partitions}"
    wanted = spec.config()
    for key in _BINDING:
        has = state.config.get(key)
        if has is not None and sorted(has.split(",")) != sorted(wanted[key].split(",")):
            yield f"{name} has {key}={has}, this code says {wanted[key]}"


def _uneven(one: Blueprint, there: dict[str, TopicState], prefix: str) -> Iterator[str]:
    """State is found under its input's partition number, and range keeps equal numbers together."""

    def count(spec: TopicSpec) -> int:
        state = there.get(spec.named(prefix))
        return state.partitions if state is not None else spec.partitions

    for agent in one.agents:
        if agent.changelog is not None and count(agent.changelog) != count(agent.reads):
            yield (
                f"{agent.changelog.name} has {count(agent.changelog)} partitions, its input "
                f"{agent.reads.name} {count(agent.reads)}: state and input have the same numbers"
            )
    if len({count(agent.reads) for agent in one.agents}) > 1:
        counts = ", ".join(f"{agent.reads.name} {count(agent.reads)}" for agent in one.agents)
        yield f"inputs differ in partitions: {counts}"
