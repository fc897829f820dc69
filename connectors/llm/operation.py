"""One operation: attempts, one after the other, until one is good or nothing more may be tried.

1. What a dead owner left is settled, and superseded by a ``reset``. 2. The plan says what is called. 3. The
attempt is on the ledger before the call. 4. Its content goes out as it comes. 5. It is settled: what it took,
what it cost (3 to 5: ``trial.py``). 6. If it failed, the plan says whether another follows, and what of it
clients see. 7. The ``end``, the last row and the request's offset are one transaction (``entries.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from connectors.kafka.errors import KafkaFailure
from connectors.llm.answer_schemas import answer_schema
from connectors.llm.attempt import drop
from connectors.llm.claim import Claim
from connectors.llm.clock import now_us
from connectors.llm.committer import PartitionLost
from connectors.llm.contents import KEPT_MAX
from connectors.llm.entries import Entries, read_anew, refuse
from connectors.llm.errors import CallRefused, LlmError, place_of, unquoted, with_remedy
from connectors.llm.fallback import can_be_continued, continued, surfaced
from connectors.llm.inherited import kept_of, may_go_on, may_have_shown, others_shown, tried_of
from connectors.llm.patience import Patience
from connectors.llm.plan import Next, Stop, Tried, within
from connectors.llm.provider import Cursor
from connectors.llm.trial import Trial
from connectors.llm.valve import Valve
from schemas.errors import SchemaError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.llm.answer_schemas import AnswerSchema
    from connectors.llm.attempt import Outcome
    from connectors.llm.calls import Target
    from connectors.llm.deltas import ErrorClass
    from connectors.llm.emitter import Emitter
    from connectors.llm.ledger import Attempt, EndReason, Known
    from connectors.llm.offsets import Tenure
    from connectors.llm.plan import Choice, Plan
    from connectors.llm.request import Envelope, Request
    from connectors.llm.shown import Shown
    from connectors.llm.tools import Tools

log = structlog.get_logger(__name__)

_STOPPED: Final[Mapping[EndReason, str]] = {
    "cancelled": "it was cancelled",
    "timed_out": "its stream had timed out",
    "upstream_error": "two questions came for this stream at one moment: ask again, under another stream_id",
}
_PENDING_MS_MAX: Final = 1_000
"""A settled row waits for no longer than this for another transaction to go out with."""


class Operation:
    """One request's. ``cancel`` is a client's wish; a partition that is taken away cancels the task."""

    def __init__(
        self,
        tools: Tools,
        tenure: Tenure,
        offset: int,
        asked_us: int,
        to: Envelope,
        request: Request | LlmError,
        known: Known | None,
        emitter: Emitter,
        asks: bytes = b"",
        open_id: str = "",
        first_attempt: int = 1,
    ) -> None:
        self._tools = tools
        self.tenure = tenure
        self.offset = offset
        self.asked_us = asked_us
        self.to = to
        self._request = request
        self._known = self._left = known
        self._emitter = emitter
        self._valve = valve = Valve(emitter, tools.outlet)
        give_up = partial(self.cancel, "upstream_error")
        self.claim = Claim(asks, open_id, asked_us, emitter, valve, give_up)
        self._entries = Entries(tools, tenure, offset, to, emitter, request)
        self._entries.number = emitter.first_attempt = first_attempt
        self._connection = tools.kinds.named(to.kind).connection
        self._patience = Patience(tools.clock, asked_us, self._connection, tools.queue_ms_max)
        self._trial: Trial | None = None
        """Under way."""
        self._on_record: Attempt | None = None
        """On the ledger as started; the latest."""
        self._schema: AnswerSchema | None = None
        """What the answer must follow, once it is planned."""
        self._cancelled = asyncio.Event()
        self._tried: list[Tried] = []
        self._ends_as: EndReason = "cancelled"
        self._shown_anything = False
        self._kept: tuple[Attempt, Choice] | None = None
        """What a dead owner was reading, whose provider keeps it."""
        self._dropping: list[asyncio.Task[None]] = []
        self._answer = ""
        """Text that clients have of attempts which are gone on with; kept where the plan may continue it."""

    def cancel(self, reason: EndReason = "cancelled") -> None:
        """Stop the provider, keep what there is, and end so; ``timed_out``: ``ingest`` ended the stream."""
        if not self._cancelled.is_set():
            self._ends_as = reason
            if reason == "timed_out":  # what would be written to it is late, and a dead letter
                self._valve.shut("its stream has ended")
                self._emitter.forget_held()
        self._cancelled.set()
        self.claim.settle(sends=False)
        if self._trial is not None:
            self._trial.stop("cancelled")

    def refuse_open(self, open_id: str) -> None:
        """Take that ``ingest`` refused an ``open``: if it is this question's, the stream is another's."""
        self.claim.refuse(open_id)
        if self.claim.lost:
            self._cancelled.set()
            if self._trial is not None:
                self._trial.stop("cancelled")

    @property
    def known(self) -> Known:
        """What the ledger has of it, for the question whose stream it is; nobody was shown anything of it."""
        self._entries.known.unseen = True
        return self._entries.known

    async def run(self) -> None:
        """Do it, from the request to the ``end``.

        What nobody thought of ends this stream alone: a worker that died of it would be given it again.

        Raises:
            PartitionLost: it is another worker's now.
            KafkaFailure, SchemaError: what it is written to, or by, fails all.
        """
        try:
            await self._do()
        except (PartitionLost, KafkaFailure, SchemaError):
            raise
        except Exception as error:  # noqa: BLE001  whatever it is
            kind, where = type(error).__name__, {"stream": self.to.key.decode(), "offset": self.offset}
            # Without its message and its traceback, which may quote what was asked or said.
            log.error("llm_operation_broke", **where, error=kind, at=place_of(error))  # noqa: TRY400
            message = f"a defect of the worker: {kind}"
            self._inherit(None)
            row = self._on_record or self._entries.not_made(None, "upstream_error", message, "crashed")
            if row.state == "started":
                row.state, row.error_class, row.ended_us = "failed", "crashed", now_us()
                self._tools.desk.settle(None, row, None)
            self.claim.settle(sends=False)
            await self._end(row, "upstream_error", message)

    async def _do(self) -> None:
        patience = self._patience
        if self.to.opened and patience.outlived:
            self.cancel("timed_out")
        self._emitter.open()
        known = self._known
        if known is not None:
            self._entries.number = max(known.next_attempt, self._entries.number)
            # Above all that the dead owner may still write. What it wrote stays, unless an attempt follows.
            self._emitter.raise_epoch(known.next_epoch)
        if isinstance(self._request, LlmError):
            await self._refuse_for(self._request)
        elif self._cancelled.is_set():
            await self._refuse(self._ends_as, f"{_STOPPED[self._ends_as]} before a provider was called")
        elif known is not None and others_shown(known, self.offset):
            await self._refuse("upstream_error", _STOPPED["upstream_error"])
        elif known is None and patience.age_ms() > patience.queue_ms_max:
            await self._refuse("timed_out", f"it waited longer than {patience.queue_ms_max} ms for a worker")
        elif (plan := await self._planned(self._request)) is not None:
            await self._attempts(plan)

    # -- before a call ------------------------------------------------------------------------------------

    def _inherit(self, plan: Plan | None, *, goes_on: bool = True) -> None:
        """Settle what a dead owner left, and count it as tried, but for what the plan goes on with; once.

        Not ``goes_on``: it ends here, and so does at its provider what is kept there.
        """
        known, self._left = self._left, None
        if known is None:
            return
        kept = kept_of(known, self.offset, plan)
        if kept and goes_on and plan is not None and may_go_on(known, self.offset, plan):
            self._kept = kept.pop(0)
        for row, choice in kept:
            self._dropping.append(self._drop(row, choice.target))
        for row in known.unsettled:
            if self._kept is not None and row is self._kept[0]:
                continue
            row.state, row.error_class, row.ended_us = "abandoned", "crashed", now_us()
            self._tools.desk.settle(None, row, None)
            self._tools.metrics.settled(row)
            self._entries.wait(row)
        with_tools = bool(getattr(self._request, "tools", ()))
        self._tried = tried_of(known, self.offset, plan, with_tools=with_tools)
        self._shown_anything = any(one.had_content for one in self._tried) or (
            self._kept is not None and may_have_shown(self._kept[0], plan)
        )

    def _plan_left(self) -> Plan | None:
        """Give the plan by which a dead owner may have made its call; None where none can be had."""
        if self._left is None or not self._left.unsettled or isinstance(self._request, LlmError):
            return None
        try:
            return self._tools.desk.plan(self._request)
        except LlmError:
            return None

    def _drop(self, row: Attempt, target: Target) -> asyncio.Task[None]:
        """Have the provider end what a dead owner was reading, beside all else."""
        tools = self._tools
        dropped = drop(tools.client, tools.providers[target.shape], target, row.provider_request_id)
        return asyncio.get_running_loop().create_task(dropped)

    async def _planned(self, request: Request) -> Plan | None:
        """Say what is to be done; None = it was refused, and is over."""
        plan: Plan | None = None
        try:
            plan = within(self._tools.desk.plan(request), self._connection)
            self._tools.gate(plan)  # what cannot be used of gate or schema is refused before it costs
            if plan.call.schema is not None:
                self._schema = await asyncio.to_thread(answer_schema, plan.call.schema, plan.call.schema_name)
        except LlmError as refused:
            await self._refuse_for(refused, plan)
            return None
        if self._known is None and plan.queue_ms is not None and self._patience.age_ms() > plan.queue_ms:
            await self._refuse(
                "timed_out", f"it waited longer than the {plan.queue_ms} ms of its route", plan
            )
            return None
        self._inherit(plan)
        return plan

    async def _refuse_for(self, error: LlmError, plan: Plan | None = None) -> None:
        """End it without a call, as it cannot be made; whoever asked is told what to do about it."""
        row = self._refused(plan, "upstream_error", unquoted(error.told), error.error_class)
        await self._end(row, "upstream_error", error.told, _field_of(error))

    async def _refuse(self, reason: EndReason, message: str, plan: Plan | None = None) -> None:
        """End it without a call."""
        await self._end(self._refused(plan, reason, message), reason, message)

    def _refused(
        self, plan: Plan | None, reason: EndReason, message: str, error_class: ErrorClass | None = None
    ) -> Attempt:
        """Have it on the ledger all the same, as attempt 0."""
        self._inherit(plan or self._plan_left(), goes_on=False)
        return self._not_made(plan, reason, message, error_class)

    async def _end(
        self, row: Attempt, reason: EndReason, message: str, field: str = "", *, again_ms: int = 0
    ) -> None:
        """End it, once it is known that the stream is this question's; that of another is left to it."""
        if self.claim.disputed:
            await self.claim.decided()
            if self._cancelled.is_set():
                reason, message = self._ends_as, _STOPPED[self._ends_as]
        if self.claim.lost:
            log.info("llm_question_void", stream=self.to.key.decode(), offset=self.offset)
            await self._entries.commit([row] if row.attempt else [], over=True)
        else:
            if has_ended := self._cancelled.is_set() and self._ends_as == "timed_out":
                reason, message = self._ends_as, _STOPPED[self._ends_as]
            await self._entries.end(row, reason, message, field, again_ms=again_ms, has_ended=has_ended)
        if self._dropping:  # some seconds at the most, in which its place stays taken
            await asyncio.wait(self._dropping)

    def _not_made(
        self, plan: Plan | None, reason: EndReason, message: str, error_class: ErrorClass | None = None
    ) -> Attempt:
        before = self._tried[-1].error_class if self._tried else "bad_request"
        return self._entries.not_made(plan, reason, message, error_class, before=before)

    # -- attempts -----------------------------------------------------------------------------------------

    async def _attempts(self, plan: Plan) -> None:
        row: Attempt | None = None
        while True:
            if self._kept is not None:
                (row, choice), self._kept = self._kept, None
                step = Next(choice, "resume")
                read_anew(row, self._tools.worker, shown=self._shown_anything)
                shown = await self._attempt(plan, step, row, Cursor(row.provider_request_id))
            else:
                following = await self._following(plan, row)
                if not isinstance(following, Next):
                    field = _field_of(self._tried[-1].refused) if self._tried else ""
                    await self._end(row or self._not_made(plan, *following), *following, field)
                    return
                row, step, made = self._reserved(plan, following)
                if isinstance(made, LlmError):
                    again_ms = 0 if self._tried else made.retry_after_ms
                    await self._end(row, "upstream_error", made.told, again_ms=again_ms)
                    return
                shown = await self._attempt(made, step, row)
            outcome = shown.outcome
            if (ending := self._ending(outcome)) is not None:
                await self._end(row, *ending)
                return
            assert outcome.error_class is not None, "a good answer ends it"
            self._tried.append(
                Tried(
                    step.choice.target.name,
                    step.choice.model,
                    outcome.error_class,
                    had_content=shown.anything,
                    had_tool_call=outcome.had_tool_call,
                    retry_after_ms=outcome.retry_after_ms,
                    status=row.http_status,
                    refused=outcome.refused,
                )
            )

    async def _following(self, plan: Plan, row: Attempt | None) -> Next | tuple[EndReason, str]:
        """Say what is done next, after a wait if it takes one; or how it ends, and what a person reads."""
        step = self._tools.desk.decide(self.to, plan, self._tried, self._patience.left_ms(plan))
        if isinstance(step, Next) and step.why == "continue" and not self._can_continue():
            step = surfaced(plan, self._tried[-1]) if plan.no_reset else replace(step, why="restart")
        if isinstance(step, Stop):
            late = self._patience.left_ms(plan) <= 0 or (
                row is not None and row.error_class == "timeout_total"
            )
            refused = self._tried[-1].refused if self._tried else None
            message = step.message if refused is None else with_remedy(step.message, refused.remedy)
            return "timed_out" if late else "upstream_error", message
        if row is not None:
            self._entries.wait(row)
        if step.wait_ms > _PENDING_MS_MAX:  # a crash would make a call that nobody knows the cost of it
            await self._entries.commit([])
        if step.wait_ms:
            await self._waits(step.wait_ms)
        if self._cancelled.is_set():
            return self._ends_as, _STOPPED[self._ends_as]
        return step

    def _reserved(self, plan: Plan, step: Next) -> tuple[Attempt, Next, Plan | LlmError]:
        """Have what an attempt may take held; give its row, and the plan with the call as it is made.

        Where the tenant's money is not enough, a candidate that costs less takes its place; without one there
        is no plan but what refused it, which the row says, too.
        """
        while True:
            row = self._entries.started(plan, step.choice, step.why)
            call = plan.call if step.why != "continue" else continued(plan.call, self._answer)
            made = replace(plan, call=call)
            try:
                made = self._tools.desk.reserve(made, row)
            except LlmError as refused:
                stays = self._shown_anything and plan.no_reset  # another would begin the answer anew
                cheaper = None if stays else self._tools.desk.cheaper(plan, self._tried, row, refused)
                refuse(row, refused, cheaper)
                if cheaper is None:
                    return row, step, refused
                self._entries.wait(row)
                step = Next(cheaper, "restart" if self._shown_anything else "fallback")
            else:
                return row, step, made

    def _can_continue(self) -> bool:
        return len(self._answer) < KEPT_MAX and can_be_continued(self._answer)

    async def _attempt(self, plan: Plan, step: Next, row: Attempt, cursor: Cursor | None = None) -> Shown:
        """Make one, from the ledger to its settlement; with a ``cursor`` a dead owner made the call."""
        self._emitter.begin(row)
        supersedes = self._shown_anything and step.why != "continue"
        if supersedes:
            self._emitter.supersede(f"attempt {row.attempt}: {step.why}")
        trial = Trial(
            self._tools,
            self._entries,
            self._emitter,
            self._patience,
            plan,
            step.choice,
            row,
            self._schema,
            self._valve,
            cursor,
        )
        await trial.put_on_record()
        self._on_record, self._trial = row, trial
        if self._cancelled.is_set():
            trial.stop("cancelled")
        before = self._answer if step.why == "continue" else ""
        shown = await trial.make(before, self.tenure.source.partition)
        self._trial = None
        if trial.dropping is not None:
            self._dropping.append(trial.dropping)
        if supersedes and (shown.anything or shown.outcome.error_class is None):
            self._answer = ""
        self._answer += shown.text
        self._shown_anything = self._shown_anything or shown.anything
        trial.settle(shown)
        return shown

    def _ending(self, outcome: Outcome) -> tuple[EndReason, str] | None:
        """Say how it ends with an attempt, and what a person reads; None = another may follow."""
        if outcome.error_class is None:
            cut = outcome.finish == "length"
            return "completed", "the model stopped at its limit of tokens" if cut else ""
        if outcome.error_class == "cancelled":
            return self._ends_as, _STOPPED[self._ends_as]
        if outcome.error_class == "gate":  # another answer would be judged by the same rules
            return "upstream_error", f"the gate ended it: {outcome.error_raw}"
        return None

    async def _waits(self, wait_ms: int) -> None:
        """Wait before another attempt, or until it is cancelled."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._cancelled.wait(), wait_ms / 1_000)


def _field_of(error: LlmError | None) -> str:
    """Give the field of the request that something is wrong with; empty where it is none."""
    return error.where if isinstance(error, CallRefused) else ""
