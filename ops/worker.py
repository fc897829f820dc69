"""One role's process: its options out of the settings, then the engine."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ops.addresses import addresses, kafka_options
from ops.extension import extension_of
from ops.logs import configure_logs

if TYPE_CHECKING:
    from ops.settings import Settings
    from pipelines.options import WorkerOptions


def worker_options(
    settings: Settings, *, migrate: str = "", abandon_migration: bool = False, adopt: bool = False
) -> WorkerOptions:
    """Everything a role is told; raises NoStack if nothing says where Kafka and the registry are."""
    from pipelines.options import WorkerOptions
    from schemas.topics import DAY_MS
    from state.budget import StateOptions

    where = addresses(settings)
    worker = settings.worker
    return WorkerOptions(
        kafka=kafka_options(settings, where.kafka),
        registry_url=where.registry_url,
        postgres_dsn=where.postgres_dsn or None,
        state_dir=settings.data_dir / "state",
        commit_interval_ms=worker.commit_interval_ms,
        transaction_timeout_ms=worker.transaction_timeout_ms,
        assignment=worker.assignment,
        session_timeout_ms=worker.session_timeout_ms,
        max_poll_interval_ms=worker.max_poll_interval_ms,
        chunk_events_max=worker.chunk_events_max,
        stall_ms_max=worker.stall_ms_max,
        unit_records_max=worker.unit_records_max,
        unit_mb_max=worker.unit_mb_max,
        handover_mb_max=worker.handover_mb_max,
        attempts_max=worker.attempts_max,
        retry_backoff_ms=worker.retry_backoff_ms,
        retry_backoff_ms_max=worker.retry_backoff_ms_max,
        state=StateOptions(
            settings.state.block_cache_mb, settings.state.write_buffer_mb, settings.state.open_files_max
        ),
        state_queries=settings.state.queries,
        web_host=worker.web_host,
        web_port=worker.web_port,
        at_least_once=worker.at_least_once,
        web_advertised_host=worker.web_advertised_host,
        identity=worker.identity,
        migrate=migrate,
        abandon_migration=abandon_migration,
        adopt=adopt,
        content_ms=settings.llm.content_days * DAY_MS,
        connections_ms=settings.postgres.connections_days * DAY_MS,
        create_topics=settings.kafka.create_topics,
        register_schemas=settings.registry.register_schemas,
    )


def run_role_process(
    role: str, settings: Settings, *, migrate: str = "", abandon_migration: bool = False, adopt: bool = False
) -> int:
    """Be one role until a signal; the exit code is 0 if it was stopped on purpose."""
    from pipelines.app import AGAIN, run_role

    configure_logs()
    options = worker_options(settings, migrate=migrate, abandon_migration=abandon_migration, adopt=adopt)
    code = run_role(role, options, extension_of(settings))
    if code == AGAIN:  # the same process, so that whoever watches it sees no end
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # our own words
    return code
