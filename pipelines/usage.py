"""Usage by tenant, kind, provider and model, in windows of event time: what is counted, of which events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pipelines.figures import Figures, Group
from pipelines.queries import Query
from pipelines.two_stage import LATE, MergeStage, PartialStage, Stages
from pipelines.verdicts import TICK
from schemas import envelope, topics
from schemas.envelope import Event
from schemas.errors import ContractError, InvalidEvent, WireError

if TYPE_CHECKING:
    from connectors.kafka.stream import Stream as AgentStream
    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.tools import Tools
    from pipelines.two_stage import PartialBatch, TwoStageOptions
    from schemas.payloads import PayloadCodec
    from schemas.record import Record
    from schemas.wire import WireCodec

USAGE: Final = Stages(Group, "pipelines.figures.Group", Figures, topics.USAGE_PARTIALS, topics.USAGE_WINDOWS)


class UsagePartials(PartialStage[Group, Figures]):
    """First stage: every event of the output, whose time ticks move where it is idle."""

    def __init__(
        self, codec: WireCodec, payloads: PayloadCodec, options: TwoStageOptions | None = None
    ) -> None:
        super().__init__(USAGE, codec, options)
        self._payloads = payloads

    def take(
        self, batch: PartialBatch[Group, Figures], record: Record, item: Event | WireError | None
    ) -> None:
        """See ``PartialStage``."""
        if isinstance(item, Event) and item.type == envelope.TICK:
            batch.clock.tick(record.timestamp_us)
            batch.counts[TICK] += 1
            return
        try:
            event, usage = self._usage(item)
        except (ContractError, WireError) as error:
            batch.dead_letter(record, error)
            return
        if usage is None:
            taken = batch.add(record, event.time, Group(event.tenant, event.kind), Figures.count)
        else:
            group = Group(event.tenant, event.kind, usage["provider"], usage["model"])
            taken = batch.add(record, event.time, group, lambda figures: figures.add(usage))
        if taken:
            return
        if usage is None:  # no figure is missing from its window, and it is on the output all the same
            batch.counts[LATE] += 1
        else:
            batch.late(record, event.time)

    def _usage(self, item: Event | WireError | None) -> tuple[Event, dict[str, Any] | None]:
        if isinstance(item, WireError):
            raise item
        if item is None:
            raise InvalidEvent("value", "the record has none")
        if item.type != "usage":
            return item, None
        return item, self._payloads.decode_as(item.type, item.payload_schema, item.payload)


class UsageMerge(MergeStage[Group, Figures]):
    """Second stage."""

    def __init__(self, codec: WireCodec, options: TwoStageOptions | None = None) -> None:
        super().__init__(USAGE, codec, options)


def register(app: RoleApp, tools: Tools, options: WorkerOptions) -> None:  # noqa: ARG001 - one shape for all
    """Add the two agents to the role's app."""
    partials, merge = UsagePartials(tools.codec, tools.payloads), UsageMerge(tools.codec)

    @app.agent(
        app.source(
            topics.OUTPUT,
            agent="usage_partials",
            decode=tools.decode_events,
            changelog=topics.AGGREGATE_PARTIALS_CHANGELOG,
            open_deadline=partials.open_deadline,
            store=partials.store,
            writes=(topics.USAGE_PARTIALS,),
            late_to=topics.LATE_EVENTS,
        )
    )
    async def usage_partials(stream: AgentStream) -> None:
        async for batch in stream.batches():
            partials.handle(batch.scope, batch.items)

    @app.agent(
        app.source(
            topics.USAGE_PARTIALS,
            agent="usage_merge",
            decode=tools.decoder(topics.USAGE_PARTIALS.subject),
            changelog=topics.AGGREGATE_WINDOWS_CHANGELOG,
            store=merge.store,
            writes=(topics.USAGE_WINDOWS,),
            query=Query(merge.answer),
        )
    )
    async def usage_merge(stream: AgentStream) -> None:
        async for batch in stream.batches():
            merge.handle(batch.scope, batch.items)
