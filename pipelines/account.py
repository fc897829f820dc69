"""The role ``account``: what the ledger of language-model calls is made into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.attempts import AttemptMerge, AttemptPartials
from pipelines.queries import Query
from pipelines.task_parts import TaskEvents, emit_attempts
from pipelines.tasks import Tasks
from schemas import topics

if TYPE_CHECKING:
    from connectors.kafka.stream import Stream
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.tools import Tools


def register(app: RoleApp, tools: Tools, options: WorkerOptions) -> None:  # noqa: ARG001 - one shape for all
    """Add the agents to the role's app."""
    _windows(app, tools)
    _tasks(app, tools)


def _windows(app: RoleApp, tools: Tools) -> None:
    partials, merge = AttemptPartials(tools.codec), AttemptMerge(tools.codec)

    @app.agent(
        app.source(
            topics.LLM_ATTEMPTS,
            agent="llm_attempts",
            decode=tools.decoder(topics.LLM_ATTEMPTS.subject),
            changelog=topics.ACCOUNT_ATTEMPTS_CHANGELOG,
            store=partials.store,
            writes=(topics.LLM_PARTIALS, topics.LLM_TASK_PARTS),
            late_to=topics.LATE_EVENTS,
        )
    )
    async def llm_attempts(stream: Stream) -> None:
        async for batch in stream.batches():
            partials.handle(batch.scope, batch.items)
            emit_attempts(batch.scope, tools.codec, batch.items)

    @app.agent(
        app.source(
            topics.LLM_PARTIALS,
            agent="llm_merge",
            decode=tools.decoder(topics.LLM_PARTIALS.subject),
            changelog=topics.ACCOUNT_WINDOWS_CHANGELOG,
            store=merge.store,
            writes=(topics.LLM_WINDOWS,),
            query=Query(merge.answer),
        )
    )
    async def llm_merge(stream: Stream) -> None:
        async for batch in stream.batches():
            merge.handle(batch.scope, batch.items)


def _tasks(app: RoleApp, tools: Tools) -> None:
    events, tasks = TaskEvents(tools.codec, tools.payloads), Tasks(tools.codec)

    @app.agent(
        app.source(
            topics.OUTPUT,
            agent="llm_events",
            columns=tools.columns(logical_types=False),
            changelog=topics.ACCOUNT_STREAMS_CHANGELOG,
            store=events.store,
            writes=(topics.LLM_TASK_PARTS,),
        )
    )
    async def llm_events(stream: Stream) -> None:
        async for batch in stream.record_batches():
            events.handle(batch)

    @app.agent(
        app.source(
            topics.LLM_TASK_PARTS,
            agent="llm_tasks",
            decode=tools.decoder(topics.LLM_TASK_PARTS.subject),
            changelog=topics.ACCOUNT_TASKS_CHANGELOG,
            store=tasks.store,
            writes=(topics.LLM_TASKS,),
        )
    )
    async def llm_tasks(stream: Stream) -> None:
        async for batch in stream.batches():
            tasks.handle(batch.scope, batch.items)
