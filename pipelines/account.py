"""The role ``account``: what the ledger of language-model calls is made into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.attempts import AttemptMerge, AttemptPartials
from pipelines.queries import Query
from schemas import topics

if TYPE_CHECKING:
    from connectors.kafka.stream import Stream
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.tools import Tools


def register(app: RoleApp, tools: Tools, options: WorkerOptions) -> None:  # noqa: ARG001 - one shape for all
    """Add the agents to the role's app."""
    partials, merge = AttemptPartials(tools.codec), AttemptMerge(tools.codec)

    @app.agent(
        app.source(
            topics.LLM_ATTEMPTS,
            agent="llm_partials",
            decode=tools.decoder(topics.LLM_ATTEMPTS.subject),
            changelog=topics.ACCOUNT_ATTEMPTS_CHANGELOG,
            store=partials.store,
            writes=(topics.LLM_PARTIALS,),
            late_to=topics.LATE_EVENTS,
        )
    )
    async def llm_partials(stream: Stream) -> None:
        async for batch in stream.batches():
            partials.handle(batch.scope, batch.items)

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
