"""Makes a role's app what is deployed of the role: its stores, its generation, live or not yet."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from connectors.kafka.admin import ensure_topics, partition_counts
from connectors.kafka.idle import FollowedIdle
from connectors.kafka.roster import store_of
from pipelines.blueprint import agents_of
from pipelines.deployment import Deployment
from pipelines.generations import FIRST, between, changelog_of, group_of, held_back
from pipelines.migration import StoreMigration, abandon
from pipelines.rebuild import Bounds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.roster import Roster, Row
    from pipelines.blueprint import Agent
    from pipelines.extension import Extension
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from schemas.topics import TopicSpec

log = structlog.get_logger(__name__)


def deploy(app: RoleApp, roster: Roster, options: WorkerOptions, extension: Extension) -> None:
    """Hold the role's code against what is deployed of it; first migrate its state, where that is asked.

    Raises:
        DeployRefused: it does not fit.
        StateLost: a changelog was made anew.
        KafkaUnavailable, NotAuthorized: it cannot be asked.
    """
    generation = extension.generation(app.role)
    agents = agents_of(app.sources)
    stores = {
        changelog_of(source.changelog, generation): source
        for source in app.sources.values()
        if source.changelog is not None
    }
    migrations = [
        replace(one, changelog=changelog_of(one.changelog, generation)) for one in extension.all_migrations()
    ]
    if options.abandon_migration:
        for given_up in abandon(app.role, roster, "by an operator"):
            log.warning("migration given up, the state as it was before holds", migration=given_up)
    for name in filter(None, options.migrate.split(",")):
        for migration in migrations:
            if migration.name == name and migration.changelog in stores:
                source = stores[migration.changelog]
                StoreMigration(
                    app.role, app.engine.options.group, source.spec, migration, source.store, options.kafka,
                    roster, app.engine.options.state_dir,
                ).run()  # fmt: skip
    app.deployment = deployment = Deployment(
        app.role,
        {changelog: source.store for changelog, source in stores.items()},
        kafka=options.kafka,
        roster=roster,
        inputs={changelog: source.spec for changelog, source in stores.items()},
        migrations=migrations,
        generation=generation,
        adopt=options.adopt,
    )
    if generation > FIRST:
        _make_first(list(stores), generation, roster.read().get(app.role), options)
    topics = deployment.admit()
    app.engine.still_deployed = deployment.still_holds
    for name, source in app.sources.items():
        if source.changelog is not None:
            changelog = changelog_of(source.changelog, generation)
            marked = changelog in deployment.marked
            app.sources[name] = replace(source, changelog=topics[changelog], marked=marked)
    if deployment.rebuilds:
        _hold_back(app, agents, roster, options, generation)


def _make_first(
    changelogs: Sequence[TopicSpec], generation: int, row: Row | None, options: WorkerOptions
) -> None:
    """Make the changelogs of a later generation that was not built beside another: where nothing ran before.

    The table has those of the first alone, and `sluicegate reprocess` makes what it builds.
    """
    if row is None or row["generation"] == generation:
        kept = {spec: store_of(row, spec.name) for spec in changelogs}
        first = [spec for spec, store in kept.items() if store is None or not store["topic_id"]]
        ensure_topics(options.kafka, first)


def _hold_back(
    app: RoleApp, agents: Sequence[Agent], roster: Roster, options: WorkerOptions, generation: int
) -> None:
    """Make the role one that is built beside: it reads as far as the one that runs, seen by nobody yet."""
    deployment, prefix = app.deployment, options.kafka.topic_prefix
    assert deployment is not None
    changelogs = [source.changelog for source in app.sources.values() if source.changelog is not None]
    app.engine.transaction.outputs = held_back(agents, changelogs, generation, deployment.rebuilds)
    inner = between(agents)
    counts = partition_counts(options.kafka)
    outer = [spec.named(prefix) for agent in agents if (spec := agent.reads) not in inner]
    live = roster.read()[app.role]["generation"]
    app.bounds = Bounds(
        options.kafka, group_of(prefix, app.role, live), {topic: counts[topic] for topic in outer}
    )
    app.engine.idle = FollowedIdle(app.engine.reader, app.engine.tails, app.bounds.silence_of)
    for name, source in app.sources.items():  # time is moved by the one that runs: its ticks and its silences
        on_idle = source.on_idle if name in outer else None
        app.sources[name] = replace(source, open_deadline=None, on_idle=on_idle)
    log.warning("generation is built beside the one that runs", role=app.role, generation=generation)
