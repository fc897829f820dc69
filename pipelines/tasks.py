"""What each task cost: all that was called for it, joined with the end of its root stream.

All parts of a task come to one partition, from the ledger and from the output, in any order. Each is kept by
its name, so that it counts once however often it is said, and a later word about it takes its place; so the
sums do not depend on the order in which parts come, nor on what was read again.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from pipelines.task import Share, Task
from pipelines.verdicts import DEAD_LETTER
from schemas import topics
from state.binary import after, pack_texts
from state.schema import StoreSchema, kv
from state.ttl import ExpiryIndex
from state.watermark import Watermark

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from schemas.errors import WireError
    from schemas.record import Record
    from schemas.wire import WireCodec
    from state.scope import Scope
    from state.store import StateView

TTL_MS: Final = 7 * topics.DAY_MS
"""A task that had calls is forgotten when nothing came of it for so long; then it begins a new life."""
QUIET_TTL_MS: Final = topics.DAY_MS
"""One of which only the end is known: every stream that calls nobody. A day is how long parts are kept."""
_DUE_MAX: Final = 2
"""Tasks looked at for each record, which makes one at most, so what is due is caught up with."""
_CHORES_MAX: Final = 256
"""Parts deleted of each."""
_CLOCK: Final = b"c"


class Tasks:
    """The step of the agent ``llm_tasks``."""

    def __init__(self, codec: WireCodec) -> None:
        self._codec = codec
        self._expiries = ExpiryIndex(b"e")
        self.store = StoreSchema(
            parts=(
                kv("t", key="tenant, task_id", value="pipelines.task.Task, form 1", ttl_ms=TTL_MS),
                kv("p", key="tenant, task_id, part", value="pipelines.task.Share, form 1", ttl_ms=TTL_MS),
                kv("e", key="forgotten at >q, tenant, task_id", value="", ttl_ms=TTL_MS),
                kv("c", key="the watermark", value=">q"),
            )
        )

    def handle(self, scope: Scope, items: Sequence[tuple[Record, dict[str, Any] | WireError | None]]) -> None:
        """Handle parts of one partition in offset order; each task that changed is said once."""
        clock, counts = Watermark(0), Counter[str]()
        clock.load(scope.state, _CLOCK)
        changed: dict[bytes, tuple[str, str]] = {}
        for record, item in items:
            if not isinstance(item, dict):
                problem = item or ValueError("value: the record has none")
                scope.dead_letter(record, type(problem).__name__, str(problem))
                counts[DEAD_LETTER] += 1
                continue
            key = pack_texts(item["tenant"], item["task_id"])
            if self._take(scope.state, key, item, clock.see(item["time_us"], record.timestamp_us)):
                changed[key] = item["tenant"], item["task_id"]
                counts["counted"] += 1
            else:
                counts["duplicate"] += 1
            self._forget(scope.state, clock.now_us)
        for key, (tenant, task_id) in changed.items():
            self._emit(scope, key, tenant, task_id)
        clock.save(scope.state, _CLOCK)
        for outcome, count in counts.items():
            scope.count(outcome, count)

    def _take(self, view: StateView, key: bytes, part: Mapping[str, Any], now_us: int) -> bool:
        """Take a part in at its effective time; tells whether it says anything new."""
        stored = view.get(b"t" + key)
        task = Task(now_us) if stored is None else Task.read(stored)
        place = b"p" + key + part["part"].encode()
        if (kept := view.get(place)) is None and part["part"].startswith("attempt:"):
            # In a task of before an upgrade an attempt may stand without the place of its question.
            former = b"p" + key + part["part"].rpartition("@")[0].encode()
            if (kept := view.get(former)) is not None:
                place = former
        before = None if kept is None else Share.read(kept)
        share = task.share_of(part)
        if before is not None:
            if share.rank < before.rank or share == before:
                return False
            task.add(before, -1)
        task.add(share)
        if part["end_reason"] and not task.end_reason:
            task.end_reason, task.ended_us = part["end_reason"], part["time_us"]
        elif part["started_us"] and not part["end_reason"]:
            task.started_us = min(task.started_us or part["started_us"], part["started_us"])
        task.last_us = max(task.last_us, part["time_us"])
        task.revision += 1
        due_us = now_us + (TTL_MS if task.has_calls else QUIET_TTL_MS) * 1_000
        if not task.due_us:
            self._expiries.put(view, due_us, key)
        task.due_us = max(task.due_us, due_us)
        view.put(place, share.write())
        view.put(b"t" + key, task.write())
        return True

    def _forget(self, view: StateView, now_us: int) -> None:
        """Forget what is due, a bounded piece at a time; the task's own due time is the truth."""
        for entry_us, key in self._expiries.due(view, now_us, _DUE_MAX):
            stored = view.get(b"t" + key)
            task = None if stored is None else Task.read(stored)
            if task is not None and task.due_us > now_us:
                self._expiries.remove(view, entry_us, key)
                self._expiries.put(view, task.due_us, key)
                continue
            parts = list(view.scan(b"p" + key, after(b"p" + key), _CHORES_MAX))
            view.put_many([place for place, _ in parts], [None] * len(parts))
            if len(parts) < _CHORES_MAX:  # else the task stands, and is whole, until its last part is gone
                view.delete(b"t" + key)
                self._expiries.remove(view, entry_us, key)

    def _emit(self, scope: Scope, key: bytes, tenant: str, task_id: str) -> None:
        stored = scope.state.get(b"t" + key)
        task = None if stored is None else Task.read(stored)
        if task is None or not task.has_calls:
            return
        row = {"tenant": tenant, "task_id": task_id, **task.fields()}
        name = f"{tenant}/{task_id}/{task.begun_us}".encode()
        value = self._codec.encode(topics.LLM_TASKS.subject, row)
        scope.emit(topics.LLM_TASKS, name, value, partition=scope.partition)
