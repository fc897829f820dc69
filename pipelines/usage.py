"""Usage by tenant, kind, provider and model, in windows of event time and in two stages.

Events are partitioned by stream, a window spans partitions: partials of each source partition, which
decide what is late, then a merge of the latest partials, which is never late.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pipelines.figures import Figures, Group
from pipelines.queries import Query, starts_in
from pipelines.verdicts import DEAD_LETTER, TICK
from schemas import envelope, topics
from schemas.catalog import payload_subject
from schemas.envelope import Event
from schemas.errors import ContractError, InvalidEvent, WireError
from state.schema import StoreSchema, kv, windows
from state.watermark import AHEAD_US_MAX, Watermark
from state.windows import TimeWindows, WindowOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.kafka.stream import Stream as AgentStream
    from pipelines.options import WorkerOptions
    from pipelines.queries import Span
    from pipelines.role import RoleApp
    from pipelines.tools import Tools
    from schemas.payloads import PayloadCodec
    from schemas.record import Record
    from schemas.wire import WireCodec
    from state.scope import Scope
    from state.store import StateView

COUNTED: Final = "counted"
LATE: Final = "late_for_window"
SUPERSEDED: Final = "superseded"
"""A partial that says less than the one that is known."""
FORGOTTEN: Final = "window_forgotten"
_CLOCK: Final = b"c"
_SOURCES_MAX: Final = 1_024
"""Source partitions that one window may have: far above what a topic version gets."""


@dataclass(frozen=True, slots=True)
class UsageOptions:
    """Windows of usage; times in event time."""

    windows: WindowOptions = field(default_factory=WindowOptions)
    merged_ttl_ms: int = 86_400_000
    """The merge keeps a window this long after it closed: the longest that a source partition may lag."""
    disorder_ms: int = 2_000
    chores_max: int = 256
    """Windows closed, and deleted, for each record."""


class UsagePartials:
    """First stage: windows of one source partition, said when they change and once more when they close."""

    def __init__(self, codec: WireCodec, payloads: PayloadCodec, options: UsageOptions | None = None) -> None:
        self._codec, self._payloads = codec, payloads
        self._options = options or UsageOptions()
        self._windows = TimeWindows(b"w", self._options.windows)
        self.store = StoreSchema(
            parts=(
                windows("w", self._options.windows, key="pipelines.figures.Group", value="Figures, form 1"),
                kv("c", key="the watermark", value=">q"),
            )
        )

    def handle(self, scope: Scope, items: Sequence[tuple[Record, Event | WireError | None]]) -> None:
        """Handle records of one partition in offset order.

        Raises:
            RegistryUnavailable: a payload's schema cannot be fetched; nothing may be kept of the call.
        """
        batch = _PartialsBatch(self._windows, scope, Watermark(self._options.disorder_ms * 1000))
        for record, item in items:
            if isinstance(item, Event) and item.type == envelope.TICK:
                batch.clock.tick(record.timestamp_us)
                batch.counts[TICK] += 1
            else:
                self._take(batch, record, item)
            for start_us, key, figures in batch.close(self._options.chores_max):
                self._emit(scope, start_us, key, figures)
        for start_us, key, figures in batch.changed():
            self._emit(scope, start_us, key, figures)
        batch.save()

    def open_deadline(self, state: StateView) -> int | None:
        """Return the broker time, µs, at which a tick would close a window; None = none is open."""
        close_us = self._windows.next_close_us(state)
        return None if close_us is None else close_us + self._options.disorder_ms * 1000

    def _take(self, batch: _PartialsBatch, record: Record, item: Event | WireError | None) -> None:
        try:
            event, usage = self._usage(item)
        except (ContractError, WireError) as error:
            batch.counts[DEAD_LETTER] += 1
            batch.scope.dead_letter(record, type(error).__name__, str(error))
            return
        batch.clock.see(event.time, record.timestamp_us)
        # What is dated 2099 counts as of now: its own window would stay open until then.
        time_us = min(event.time, record.timestamp_us + AHEAD_US_MAX)
        if batch.add(time_us, event, usage):
            batch.counts[COUNTED] += 1
            return
        if usage is None:  # no figure is missing from its window, and it is on the output all the same
            batch.counts[LATE] += 1
        else:
            now_us = batch.clock.now_us
            batch.scope.late(record, time_us=time_us, watermark_us=now_us, outcome=LATE)

    def _usage(self, item: Event | WireError | None) -> tuple[Event, dict[str, Any] | None]:
        if isinstance(item, WireError):
            raise item
        if item is None:
            raise InvalidEvent("value", "the record has none")
        if item.type != "usage":
            return item, None
        subject = self._payloads.subject_of(item.payload_schema)
        if subject != payload_subject("usage"):
            raise InvalidEvent("payload_schema", f"{item.payload_schema} is of {subject}, not of usage")
        return item, self._payloads.decode(item.payload_schema, item.payload)

    def _emit(self, scope: Scope, start_us: int, key: bytes, figures: Figures) -> None:
        group = Group.of_state_key(key)
        partial = {
            **group._asdict(), **figures.fields(), "window_start_us": start_us,
            "window_ms": self._options.windows.window_ms, "source_partition": scope.partition,
        }  # fmt: skip
        value = self._codec.encode(topics.USAGE_PARTIALS.subject, partial)
        scope.emit(topics.USAGE_PARTIALS, group.topic_key(), value)


class _PartialsBatch:
    """The windows that one call touches, decoded once and written back once."""

    def __init__(self, windows: TimeWindows, scope: Scope, clock: Watermark) -> None:
        self._windows = windows
        self.scope = scope
        self.clock = clock
        self.counts: Counter[str] = Counter()
        self._figures: dict[tuple[int, bytes], Figures] = {}
        self._keys: dict[Group, bytes] = {}
        self._bound_us = -1
        clock.load(scope.state, _CLOCK)

    def add(self, time_us: int, event: Event, usage: Mapping[str, Any] | None) -> bool:
        """Count an event; tells whether its window was still open."""
        start_us = self._windows.start_us(time_us)
        if self._windows.is_late(start_us, self.clock.now_us):
            return False
        names = () if usage is None else (usage["provider"], usage["model"])
        group = Group(event.tenant, event.kind, *names)
        key = self._keys.get(group)
        if key is None:
            key = self._keys[group] = group.state_key()
        figures = self._figures.get((start_us, key))
        if figures is None:
            stored = self._windows.get(self.scope.state, start_us, key)
            figures = self._figures[start_us, key] = Figures() if stored is None else Figures.read(stored)
        if usage is None:
            figures.count()
        else:
            figures.add(usage)
        return True

    def close(self, limit: int) -> list[tuple[int, bytes, Figures]]:
        """Return what closes at the watermark, with its last word; delete what has expired."""
        bound_us = self._windows.bound_us(self.clock.now_us)
        if bound_us == self._bound_us:
            return []
        view = self.scope.state
        for start_us, key, figures in self.changed():
            if start_us < bound_us:
                self._windows.put(view, start_us, key, figures.write())
        closed = []
        for window in self._windows.closed(view, self.clock.now_us, limit):
            figures = Figures.read(window.value)
            figures.final, figures.revision = True, figures.revision + 1
            self._windows.put(view, window.start_us, window.key, figures.write())
            self._figures.pop((window.start_us, window.key), None)
            closed.append((window.start_us, window.key, figures))
        expired = self._windows.expire(view, self.clock.now_us, limit)
        if len(closed) < limit and expired < limit:
            self._bound_us = bound_us  # nothing is left to do until the watermark is a window further
        return closed

    def changed(self) -> list[tuple[int, bytes, Figures]]:
        """Return the windows that changed and have not closed."""
        return [(start_us, key, figures) for (start_us, key), figures in self._figures.items()]

    def save(self) -> None:
        """Write back; the call is over."""
        for (start_us, key), figures in self._figures.items():
            self._windows.put(self.scope.state, start_us, key, figures.write())
        self.clock.save(self.scope.state, _CLOCK)
        for outcome, count in self.counts.items():
            self.scope.count(outcome, count)


class UsageMerge:
    """Second stage: the sum of the latest partials of all source partitions."""

    def __init__(self, codec: WireCodec, options: UsageOptions | None = None) -> None:
        self._codec = codec
        self._options = options or UsageOptions()
        first = self._options.windows
        merged = WindowOptions(first.window_ms, first.grace_ms, self._options.merged_ttl_ms)
        self._windows = TimeWindows(b"w", merged)
        self.store = StoreSchema(
            parts=(
                windows("w", merged, key="Group, source partition >I", value="Figures, form 1"),
                kv("c", key="the watermark", value=">q"),
            )
        )

    def handle(self, scope: Scope, items: Sequence[tuple[Record, dict[str, Any] | WireError | None]]) -> None:
        """Handle partials of one partition in offset order; each window that changed is said once."""
        clock, counts = Watermark(0), Counter[str]()
        clock.load(scope.state, _CLOCK)
        changed: dict[tuple[int, Group], None] = {}
        for record, item in items:
            outcome = self._take(scope, clock, record, item)
            counts[outcome] += 1
            if outcome == COUNTED:
                assert isinstance(item, dict)
                changed[item["window_start_us"], _group(item)] = None
            self._windows.expire(scope.state, clock.now_us, self._options.chores_max)
        for start_us, group in changed:
            self._emit(scope, start_us, group)
        clock.save(scope.state, _CLOCK)
        for name, count in counts.items():
            scope.count(name, count)

    def _take(
        self, scope: Scope, clock: Watermark, record: Record, item: dict[str, Any] | WireError | None
    ) -> str:
        if not isinstance(item, dict) or item["window_ms"] != self._options.windows.window_ms:
            cause, detail = _fault(item, self._options.windows.window_ms)
            scope.dead_letter(record, cause, detail)
            return DEAD_LETTER
        start_us = item["window_start_us"]
        if self._windows.is_forgotten(start_us, clock.now_us):
            # Adding to nothing would say a smaller sum than was said before.
            detail = (
                f"window {start_us} was forgotten at {clock.now_us} µs; is a source partition far behind?"
            )
            scope.dead_letter(record, FORGOTTEN, detail)
            return FORGOTTEN
        end_us = start_us + self._windows.size_us
        clock.see(end_us, end_us)
        key = _group(item).state_key() + item["source_partition"].to_bytes(4, "big")
        stored = self._windows.get(scope.state, start_us, key)
        if stored is not None and Figures.read(stored).revision >= item["revision"]:
            return SUPERSEDED
        self._windows.put(scope.state, start_us, key, Figures.of_fields(item).write())
        return COUNTED

    def answer(self, view: StateView, key: bytes, span: Span) -> list[dict[str, Any]] | None:
        """Answer a query for ``tenant/kind/provider/model``: its windows that begin within the span."""
        group, found = Group.of_topic_key(key), []
        for start_us in starts_in(self._windows, span):
            total = self._total(view, start_us, group)
            if total is not None:
                found.append(
                    {"start_us": start_us, "end_us": start_us + self._windows.size_us, **total.fields()}
                )
        return found or None

    def _total(self, view: StateView, start_us: int, group: Group) -> Figures | None:
        parts = self._windows.of(view, start_us, group.state_key(), _SOURCES_MAX)
        return Figures.total(Figures.read(part.value) for part in parts) if parts else None

    def _emit(self, scope: Scope, start_us: int, group: Group) -> None:
        total = self._total(scope.state, start_us, group)
        if total is None:
            return  # it expired within this very call
        window = {
            **group._asdict(), **total.fields(), "window_start_us": start_us,
            "window_ms": self._options.windows.window_ms,
        }  # fmt: skip
        value = self._codec.encode(topics.USAGE_WINDOWS.subject, window)
        scope.emit(topics.USAGE_WINDOWS, b"%d/" % start_us + group.topic_key(), value)


def _group(partial: Mapping[str, Any]) -> Group:
    return Group(partial["tenant"], partial["kind"], partial["provider"], partial["model"])


def _fault(item: dict[str, Any] | WireError | None, window_ms: int) -> tuple[str, str]:
    if isinstance(item, WireError):
        return type(item).__name__, str(item)
    if item is None:
        return "InvalidEvent", "value: the record has none"
    return "InvalidEvent", f"window_ms: is {item['window_ms']}, this stage merges windows of {window_ms}"


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
