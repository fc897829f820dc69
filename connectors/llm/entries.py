"""What of one operation is on record: rows of the ledger, and at last its ``end``, in transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from connectors.llm.clock import now_us
from connectors.llm.committer import Row
from connectors.llm.errors import unquoted
from connectors.llm.ledger import RAW_MAX, Attempt, Known
from connectors.llm.request import Request
from connectors.llm.route import DEFAULT
from schemas.topics import INPUT, LLM_ATTEMPTS, LLM_CONTENTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.llm.deltas import ErrorClass
    from connectors.llm.emitter import Emitter
    from connectors.llm.errors import LlmError
    from connectors.llm.ledger import EndReason
    from connectors.llm.offsets import Tenure
    from connectors.llm.plan import Choice, Plan, Why
    from connectors.llm.request import Envelope
    from connectors.llm.tools import Tools

_CLASSES: Final[Mapping[EndReason, ErrorClass]] = {"cancelled": "cancelled", "timed_out": "timeout_total"}
"""What is said of an operation that ended so before a call."""


class Entries:
    """One operation's; a row is made here, and stands on the ledger once it is committed."""

    def __init__(
        self,
        tools: Tools,
        tenure: Tenure,
        offset: int,
        to: Envelope,
        emitter: Emitter,
        asked: Request | LlmError,
    ) -> None:
        self._tools = tools
        self._tenure = tenure
        self._offset = offset
        self._to = to
        self._emitter = emitter
        self._asked = asked
        self._pending: list[Attempt] = []
        """Settled rows that go out with the next transaction."""
        self._settled: set[int] = set()
        """Attempts that stand on the ledger as settled."""
        self.number = 1
        """Of the attempt that would follow."""
        self.known = Known()
        """What was put on record."""

    def started(self, plan: Plan, choice: Choice, why: Why) -> Attempt:
        """Make the row of an attempt that is about to be made."""
        row = self._row(plan, why, self.number, "started")
        row.provider, row.model = choice.target.name, choice.model
        self.number += 1
        return row

    def not_made(
        self,
        plan: Plan | None,
        reason: EndReason,
        message: str,
        error_class: ErrorClass | None = None,
        *,
        before: ErrorClass = "bad_request",
    ) -> Attempt:
        """Make the row of an operation that ends without a call, or another one after its owner died.

        It is attempt 0, and has the names that the request has, as far as no plan says what they stand for.
        ``before`` is its class where neither ``error_class`` nor the reason says one.
        """
        row = self._row(plan, "first", 0, "refused")
        if isinstance(self._asked, Request):
            row.model = self._asked.model
            if plan is None:
                row.route, row.prompt = self._asked.route or DEFAULT, self._asked.prompt
        row.ended_us, row.error_raw = row.started_us, message[:RAW_MAX]
        row.error_class = error_class or _CLASSES.get(reason, before)
        return row

    def wait(self, row: Attempt) -> None:
        """Have a settled row go out with the next transaction."""
        self._pending.append(row)

    async def commit(
        self, rows: Sequence[Attempt], last: Sequence[bytes] = (), *, over: bool = False
    ) -> None:
        """Put rows, and those that wait, on record; the operation is over with its last events, or ``over``.

        Raises:
            PartitionLost: it is another worker's now.
        """
        pending, self._pending = self._pending, []
        partition = self._tenure.source.partition
        records, wire = [], self._tools.wire
        for row in (*pending, *rows):
            records.append(Row(LLM_ATTEMPTS, row.key, row.encoded(wire), partition))
            if (kept := row.with_contents(wire)) is not None:
                records.append(Row(LLM_CONTENTS, row.key, kept, partition))
        records += [Row(INPUT, self._to.key, value, partition) for value in last]
        for row in (*pending, *rows):
            self.known.take(row)
            if row.ended_us:
                self._settled.add(row.attempt)
        await self._tools.committer.put(self._tenure, records, ends=self._offset if last or over else None)

    async def end(
        self,
        row: Attempt,
        reason: EndReason,
        message: str,
        field: str = "",
        *,
        again_ms: int = 0,
        has_ended: bool = False,
    ) -> None:
        """End the stream with the operation's last row, when all that was sent before is acknowledged.

        ``field`` of the request is what was refused; empty = no field of it was. ``again_ms``: after so long
        the same may be asked again, as nothing was called; 0 = it may not. ``has_ended``: ``ingest`` ended
        the stream, which gets no other end.
        """
        last: list[bytes] = []
        self._emitter.flush()
        # A program cannot go by what a person reads in the end.
        if row.error_class and reason == "upstream_error" and not has_ended:
            told = {"error_class": row.error_class, "attempt": row.attempt}
            told |= {"retry_after_ms": again_ms} if again_ms else {}
            value = orjson.dumps(told | ({"field": field} if field else {})).decode()
            last.append(self._emitter.value("state", {"name": "error", "value_json": value}))
        if not has_ended:
            last.append(self._emitter.end(reason, message))
        await self._tools.outlet.acknowledged(self._to.key)
        row.end_reason = reason
        self._pending = [each for each in self._pending if each is not row]
        if row.attempt in self._settled:
            row.ended_us += 1  # the archive keeps the row that ended later, and this one says how all did
        # One transaction: of an operation that the ledger does not have, nothing may be in its stream.
        await self.commit([row], last, over=True)
        self._tools.metrics.ended(reason)

    def _row(self, plan: Plan | None, why: Why, number: int, state: Any) -> Attempt:
        to = self._to
        row = Attempt(
            tenant=to.tenant,
            stream_id=to.stream_id,
            kind=to.kind,
            attempt=number,
            epoch=self._emitter.epoch,
            state=state,
            request_id=to.request_id,
            task_id=to.task_id,
            why=why,
            requested_us=to.time_us,
            started_us=now_us(),
            worker=self._tools.worker,
            request_partition=self._tenure.source.partition,
            request_offset=self._offset,
            shown=False,
        )
        if plan is not None:
            row.route, row.route_version = plan.route, plan.route_version
            row.prompt, row.prompt_version = plan.prompt, plan.prompt_version
        return row


def refuse(row: Attempt, refused: LlmError, instead: Choice | None = None) -> None:
    """Note in the row of an attempt why it is not made, and who is asked instead."""
    row.state, row.error_class, row.ended_us = "refused", refused.error_class, row.started_us
    why = (
        "" if instead is None else f"; {instead.target.name} {instead.model} costs less, and is asked instead"
    )
    row.error_raw = f"{unquoted(str(refused))}{why}"[:RAW_MAX]


def read_anew(row: Attempt, worker: str, *, shown: bool) -> None:
    """Begin the row of an attempt again whose answer its provider keeps: it is one call, and costs once.

    ``shown`` is whether clients may have something of it; they have it until a ``reset``.
    """
    row.why, row.worker, row.shown = "resume", worker, shown
    row.contents = row.characters = row.chunks = row.first_content_us = row.last_content_us = 0
