"""Windows over all partitions, in two stages, as records are partitioned by another key than the windows.

Partials of each source partition, which decide what is late, then a merge of the latest partials, which is
never late.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from pipelines.figures import Grouped, Sums
from pipelines.queries import starts_in
from pipelines.verdicts import DEAD_LETTER
from schemas.errors import WireError
from state.schema import StoreSchema, kv, windows
from state.watermark import AHEAD_US_MAX, Watermark
from state.windows import TimeWindows, WindowOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pipelines.queries import Span
    from schemas.record import Record
    from schemas.topics import TopicSpec
    from schemas.wire import WireCodec
    from state.schema import Part
    from state.scope import Scope
    from state.store import StateView

COUNTED: Final = "counted"
LATE: Final = "late_for_window"
SUPERSEDED: Final = "superseded"
"""A partial that says less than the one that is known."""
FORGOTTEN: Final = "window_forgotten"
CLOCK: Final = b"c"
_SOURCES_MAX: Final = 1_024
"""Source partitions that one window may have: far above what a topic version gets."""

G = TypeVar("G", bound=Grouped)
F = TypeVar("F", bound=Sums)


@dataclass(frozen=True, slots=True)
class TwoStageOptions:
    """Windows of both stages; times in event time."""

    windows: WindowOptions = field(default_factory=WindowOptions)
    merged_ttl_ms: int = 86_400_000
    """The merge keeps a window this long after it closed: the longest that a source partition may lag."""
    disorder_ms: int = 2_000
    chores_max: int = 256
    """Windows closed, and deleted, for each record."""


@dataclass(frozen=True, slots=True)
class Stages(Generic[G, F]):
    """What is counted, by whom, and where it is said."""

    group: type[G]
    group_text: str
    """What a group is, as it is declared of the stores; never changed."""
    figures: type[F]
    partials: TopicSpec
    windows: TopicSpec


class PartialStage(ABC, Generic[G, F]):
    """First stage: windows of one source partition, said when they change and once more when they close."""

    def __init__(
        self,
        stages: Stages[G, F],
        codec: WireCodec,
        options: TwoStageOptions | None = None,
        parts: Iterable[Part] = (),
    ) -> None:
        """``parts`` are what a subclass keeps beside, under prefixes other than ``w`` and ``c``."""
        self._stages, self._codec = stages, codec
        self._options = options or TwoStageOptions()
        self._windows = TimeWindows(b"w", self._options.windows)
        value = f"{stages.figures.__name__}, form {stages.figures.FORM}"
        self.store = StoreSchema(
            version=stages.figures.FORM,
            parts=(
                windows("w", self._options.windows, key=stages.group_text, value=value),
                kv("c", key="the watermark", value=">q"),
                *parts,
            ),
        )

    def handle(self, scope: Scope, items: Sequence[tuple[Record, Any]]) -> None:
        """Handle records of one partition in offset order.

        Raises:
            RegistryUnavailable: a payload's schema cannot be fetched; nothing may be kept of the call.
        """
        clock = Watermark(self._options.disorder_ms * 1000)
        batch: PartialBatch[G, F] = PartialBatch(self._windows, self._stages.figures, scope, clock)
        for record, item in items:
            self.take(batch, record, item)
            for start_us, key, figures in batch.close(self._options.chores_max):
                self._emit(scope, start_us, key, figures)
        for start_us, key, figures in batch.changed():
            self._emit(scope, start_us, key, figures)
        batch.save()

    def open_deadline(self, state: StateView) -> int | None:
        """Return the broker time, µs, at which a tick would close a window; None = none is open."""
        close_us = self._windows.next_close_us(state)
        return None if close_us is None else close_us + self._options.disorder_ms * 1000

    @abstractmethod
    def take(self, batch: PartialBatch[G, F], record: Record, item: Any) -> None:
        """Count one record: move the clock, add to a window or say why not, and count the outcome."""

    def _emit(self, scope: Scope, start_us: int, key: bytes, figures: F) -> None:
        group = self._stages.group.of_state_key(key)
        partial = {
            **group._asdict(), **figures.fields(), "window_start_us": start_us,
            "window_ms": self._options.windows.window_ms, "source_partition": scope.partition,
        }  # fmt: skip
        value = self._codec.encode(self._stages.partials.subject, partial)
        scope.emit(self._stages.partials, group.topic_key(), value)


class PartialBatch(Generic[G, F]):
    """The windows that one call touches, decoded once and written back once."""

    def __init__(self, windows: TimeWindows, figures: type[F], scope: Scope, clock: Watermark) -> None:
        self._windows = windows
        self._type = figures
        self.scope = scope
        self.clock = clock
        self.counts: Counter[str] = Counter()
        self._figures: dict[tuple[int, bytes], F] = {}
        self._keys: dict[G, bytes] = {}
        self._bound_us = -1
        clock.load(scope.state, CLOCK)

    def dead_letter(self, record: Record, error: Exception) -> None:
        """Put a record aside, and count it so."""
        self.counts[DEAD_LETTER] += 1
        self.scope.dead_letter(record, type(error).__name__, str(error))

    def add(self, record: Record, time_us: int, group: G, take: Callable[[F], None]) -> bool:
        """Move the clock to a record's event time and count it; tells whether its window was still open."""
        self.clock.see(time_us, record.timestamp_us)
        # What is dated 2099 counts as of now: its own window would stay open until then.
        start_us = self._windows.start_us(min(time_us, record.timestamp_us + AHEAD_US_MAX))
        if self._windows.is_late(start_us, self.clock.now_us):
            return False
        key = self._keys.get(group)
        if key is None:
            key = self._keys[group] = group.state_key()
        figures = self._figures.get((start_us, key))
        if figures is None:
            stored = self._windows.get(self.scope.state, start_us, key)
            figures = self._type() if stored is None else self._type.read(stored)
            self._figures[start_us, key] = figures
        take(figures)
        self.counts[COUNTED] += 1
        return True

    def late(self, record: Record, time_us: int) -> None:
        """Count a record as too late for its window, and route it as its source says."""
        time_us = min(time_us, record.timestamp_us + AHEAD_US_MAX)
        self.scope.late(record, time_us=time_us, watermark_us=self.clock.now_us, outcome=LATE)

    def close(self, limit: int) -> list[tuple[int, bytes, F]]:
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
            figures = self._type.read(window.value)
            figures.final, figures.revision = True, figures.revision + 1
            self._windows.put(view, window.start_us, window.key, figures.write())
            self._figures.pop((window.start_us, window.key), None)
            closed.append((window.start_us, window.key, figures))
        expired = self._windows.expire(view, self.clock.now_us, limit)
        if len(closed) < limit and expired < limit:
            self._bound_us = bound_us  # nothing is left to do until the watermark is a window further
        return closed

    def changed(self) -> list[tuple[int, bytes, F]]:
        """Return the windows that changed and have not closed."""
        return [(start_us, key, figures) for (start_us, key), figures in self._figures.items()]

    def save(self) -> None:
        """Write back; the call is over."""
        for (start_us, key), figures in self._figures.items():
            self._windows.put(self.scope.state, start_us, key, figures.write())
        self.clock.save(self.scope.state, CLOCK)
        for outcome, count in self.counts.items():
            self.scope.count(outcome, count)


class MergeStage(Generic[G, F]):
    """Second stage: the sum of the latest partials of all source partitions."""

    def __init__(
        self, stages: Stages[G, F], codec: WireCodec, options: TwoStageOptions | None = None
    ) -> None:
        self._stages, self._codec = stages, codec
        self._options = options or TwoStageOptions()
        first = self._options.windows
        merged = WindowOptions(first.window_ms, first.grace_ms, self._options.merged_ttl_ms)
        self._windows = TimeWindows(b"w", merged)
        value = f"{stages.figures.__name__}, form {stages.figures.FORM}"
        self.store = StoreSchema(
            version=stages.figures.FORM,
            parts=(
                windows("w", merged, key="Group, source partition >I", value=value),
                kv("c", key="the watermark", value=">q"),
            ),
        )

    def handle(self, scope: Scope, items: Sequence[tuple[Record, dict[str, Any] | WireError | None]]) -> None:
        """Handle partials of one partition in offset order; each window that changed is said once."""
        clock, counts = Watermark(0), Counter[str]()
        clock.load(scope.state, CLOCK)
        changed: dict[tuple[int, G], None] = {}
        for record, item in items:
            outcome = self._take(scope, clock, record, item)
            counts[outcome] += 1
            if outcome == COUNTED:
                assert isinstance(item, dict)
                changed[item["window_start_us"], self._stages.group.of_fields(item)] = None
            self._windows.expire(scope.state, clock.now_us, self._options.chores_max)
        for start_us, group in changed:
            self._emit(scope, start_us, group)
        clock.save(scope.state, CLOCK)
        for name, count in counts.items():
            scope.count(name, count)

    def answer(self, view: StateView, key: bytes, span: Span) -> list[dict[str, Any]] | None:
        """Answer a query for a group by its topic key: its windows that begin within the span."""
        group, found = self._stages.group.of_topic_key(key), []
        for start_us in starts_in(self._windows, span):
            total = self._total(view, start_us, group)
            if total is not None:
                found.append(
                    {"start_us": start_us, "end_us": start_us + self._windows.size_us, **total.fields()}
                )
        return found or None

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
        group, figures = self._stages.group.of_fields(item), self._stages.figures
        key = group.state_key() + item["source_partition"].to_bytes(4, "big")
        stored = self._windows.get(scope.state, start_us, key)
        if stored is not None and figures.read(stored).revision >= item["revision"]:
            return SUPERSEDED
        self._windows.put(scope.state, start_us, key, figures.of_fields(item).write())
        return COUNTED

    def _total(self, view: StateView, start_us: int, group: G) -> F | None:
        parts = self._windows.of(view, start_us, group.state_key(), _SOURCES_MAX)
        figures = self._stages.figures
        return figures.total(figures.read(part.value) for part in parts) if parts else None

    def _emit(self, scope: Scope, start_us: int, group: G) -> None:
        total = self._total(scope.state, start_us, group)
        if total is None:
            return  # it expired within this very call
        window = {
            **group._asdict(), **total.fields(), "window_start_us": start_us,
            "window_ms": self._options.windows.window_ms,
        }  # fmt: skip
        value = self._codec.encode(self._stages.windows.subject, window)
        scope.emit(self._stages.windows, b"%d/" % start_us + group.topic_key(), value)


def _fault(item: Mapping[str, Any] | WireError | None, window_ms: int) -> tuple[str, str]:
    if isinstance(item, WireError):
        return type(item).__name__, str(item)
    if item is None:
        return "InvalidEvent", "value: the record has none"
    return "InvalidEvent", f"window_ms: is {item['window_ms']}, this stage merges windows of {window_ms}"
