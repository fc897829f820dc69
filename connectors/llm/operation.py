"""One operation: attempts, one after the other, until one is good or nothing more may be tried.

1. What a dead owner left is settled, and superseded by a ``reset``. 2. The plan says what is called. 3. The
attempt is on the ledger before the call. 4. Its content goes out as it comes. 5. It is settled: what it took,
what it cost. 6. If it failed, the plan says whether another follows, and what of it clients see. 7. The
``end``, the last row and the request's offset are one transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
import structlog

from connectors.kafka.errors import KafkaFailure
from connectors.llm.answer_schemas import answer_schema
from connectors.llm.attempt import Attempt as Run
from connectors.llm.clock import now_us
from connectors.llm.committer import PartitionLost, Row
from connectors.llm.errors import LlmError, place_of
from connectors.llm.fallback import can_be_continued, continued
from connectors.llm.gates import Gate, compile_gate
from connectors.llm.kept import kept_input, kept_output
from connectors.llm.ledger import RAW_MAX, Attempt
from connectors.llm.plan import Next, Stop, Tried, in_time_ms, within
from connectors.llm.raw import RawKeeper
from connectors.llm.settling import settle, usage_of
from connectors.llm.shown import KEPT_MAX, Shown
from schemas.errors import SchemaError
from schemas.kinds import BUILTIN_KINDS
from schemas.topics import INPUT, LLM_ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx2

    from connectors.llm.answer_schemas import AnswerSchema
    from connectors.llm.attempt import Outcome
    from connectors.llm.committer import Committer
    from connectors.llm.deltas import ErrorClass
    from connectors.llm.emitter import Emitter
    from connectors.llm.gates import GateRules
    from connectors.llm.judges import Judge
    from connectors.llm.ledger import EndReason, Known
    from connectors.llm.metrics import LlmMetrics
    from connectors.llm.offsets import Tenure
    from connectors.llm.outlet import KafkaOutlet
    from connectors.llm.plan import Choice, Plan
    from connectors.llm.provider import Provider
    from connectors.llm.request import Envelope, Request
    from schemas.kinds import ConnectionPolicy, KindTable
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)

_STOPPED: Final[Mapping[EndReason, str]] = {
    "cancelled": "it was cancelled",
    "timed_out": "its stream had timed out",
    "upstream_error": "two questions came for this stream at one moment: ask again, under another stream_id",
}
_CLASSES: Final[Mapping[EndReason, ErrorClass]] = {"cancelled": "cancelled", "timed_out": "timeout_total"}
"""What is said of an operation that ended so before a call."""
_PENDING_MS_MAX: Final = 1_000
"""A settled row waits for no longer than this for another transaction to go out with."""
_ONE_MOMENT_US: Final = 60_000_000
"""An edge refuses to ask for a stream that is known; a transaction of one may take as long."""
_GATES_MAX: Final = 1_000
"""Versions of routes whose gates are kept compiled."""


class Desk(Protocol):
    """Decides: which providers, whether again, whether there is money, and what it cost."""

    def plan(self, request: Request) -> Plan:
        """Say what is to be done. Raises LlmError: nothing can be."""
        ...

    def decide(self, to: Envelope, plan: Plan, tried: Sequence[Tried], left_ms: int) -> Next | Stop:
        """Say what follows after what was tried; of nothing, the first attempt."""
        ...

    def reserve(self, plan: Plan, row: Attempt) -> None:
        """Hold what the attempt may take of the tenant's budget, and note it. Raises LlmError: too little."""
        ...

    def release(self, row: Attempt) -> None:
        """Let go of what was held for an attempt that was not made."""
        ...

    def settle(self, plan: Plan | None, row: Attempt, shown: Shown | None) -> None:
        """Note what it took and cost, with where that is known from, and let go of the rest."""
        ...


class Tools:
    """What all operations of a worker share."""

    def __init__(
        self,
        *,
        desk: Desk,
        client: httpx2.AsyncClient,
        providers: Any,
        committer: Committer,
        outlet: KafkaOutlet,
        wire: WireCodec,
        worker: str,
        queue_ms_max: int,
        judges: Mapping[str, Judge],
        metrics: LlmMetrics,
        kinds: KindTable = BUILTIN_KINDS,
    ) -> None:
        self.desk = desk
        self.client = client
        self.providers: dict[str, Provider] = providers
        self.committer = committer
        self.outlet = outlet
        self.wire = wire
        self.worker = worker
        self.queue_ms_max = queue_ms_max
        self._judges = judges
        self.metrics = metrics
        self.kinds = kinds
        self._gates: dict[tuple[str, int], GateRules] = {}

    def gate(self, plan: Plan, before: str = "") -> Gate | None:
        """Give the gate of an attempt that goes on with ``before``. Raises RouteRefused: it cannot be."""
        if plan.gate is None:
            return None
        name = plan.route, plan.route_version
        rules = self._gates.get(name)
        if rules is None:
            if len(self._gates) >= _GATES_MAX:
                self._gates.clear()
            rules = self._gates[name] = compile_gate(plan.gate, self._judges)
        return Gate(rules, before=before)


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
    ) -> None:
        self._tools = tools
        self.tenure = tenure
        self.offset = offset
        self._asked_us = asked_us
        self.to = to
        self._request = request
        self._known = known
        self._emitter = emitter
        self._asks = asks
        self._run: Run | None = None
        self._under_way: Attempt | None = None
        """On the ledger as started."""
        self._schema: AnswerSchema | None = None
        """What the answer must follow, once it is planned."""
        self._cancelled = asyncio.Event()
        self._pending: list[Attempt] = []
        """Settled rows that go out with the next transaction."""
        self._tried: list[Tried] = []
        self._ends_as: EndReason = "cancelled"
        self._heard_us = asked_us
        """When something was last written to the stream, however long nothing came since."""
        self._number = 1
        self._shown_anything = False
        self._answer = ""
        """Text that clients have of attempts which are gone on with; kept where the plan may continue it."""

    def cancel(self, reason: EndReason = "cancelled") -> None:
        """Stop the provider, keep what there is, and end so; ``timed_out``: ``ingest`` ended the stream."""
        if not self._cancelled.is_set():
            self._ends_as = reason
        self._cancelled.set()
        self._stop("cancelled")

    def asked_again(self, asks: bytes, asked_us: int) -> None:
        """Take another request for the stream, ``asks`` being the digest of what it asks.

        Its edge had not seen the stream open either, so ingest may have opened it for that one. The same
        question is the same answer; of two that differ, neither client may be given the other's.
        """
        if asks != self._asks and abs(asked_us - self._asked_us) <= _ONE_MOMENT_US:
            self.cancel("upstream_error")

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
            row = self._under_way or self._not_made(None, "upstream_error", message, "crashed")
            if row.state == "started":
                row.state, row.error_class, row.ended_us = "failed", "crashed", now_us()
                self._tools.desk.settle(None, row, None)
            await self._end(row, "upstream_error", message)

    async def _do(self) -> None:
        self._emitter.open()
        self._inherit()
        if isinstance(self._request, LlmError):
            await self._refuse("upstream_error", str(self._request), self._request.error_class)
        elif self._cancelled.is_set():
            await self._refuse(self._ends_as, f"{_STOPPED[self._ends_as]} before a provider was called")
        elif self._known is None and self._age_ms() > self._queue_ms_max():
            await self._refuse("timed_out", f"it waited longer than {self._queue_ms_max()} ms for a worker")
        else:
            await self._attempts(self._request)

    def _stop(self, why: ErrorClass) -> None:
        if self._run is not None:
            self._run.stop(why)

    # -- what a dead owner left ---------------------------------------------------------------------------

    def _inherit(self) -> None:
        known = self._known
        if known is None:
            return
        for row in known.unsettled:
            row.state, row.error_class, row.ended_us = "abandoned", "crashed", now_us()
            self._tools.desk.settle(None, row, None)
            self._tools.metrics.settled(row)
            self._pending.append(row)
        for _, row in sorted(known.attempts.items()):
            # Of one that its owner did not settle nobody knows what clients were shown.
            had_content = row.state == "abandoned" or row.contents > 0
            error: Any = row.error_class or "crashed"
            may_have_called = had_content and bool(getattr(self._request, "tools", ()))
            self._tried.append(Tried(row.provider, row.model, error, had_content, may_have_called))
        self._number = known.next_attempt
        # Above all that the dead owner may still write. What it wrote stays, unless another attempt follows.
        self._emitter.raise_epoch(known.next_epoch)
        self._shown_anything = any(one.had_content for one in self._tried)

    # -- attempts -----------------------------------------------------------------------------------------

    async def _planned(self, request: Request) -> Plan | None:
        """Say what is to be done; None = it was refused, and is over."""
        try:
            plan = within(self._tools.desk.plan(request), self._connection)
            self._tools.gate(plan)  # what cannot be used of gate or schema is refused before it costs
            if plan.call.schema is not None:
                self._schema = await asyncio.to_thread(answer_schema, plan.call.schema, plan.call.schema_name)
        except LlmError as refused:
            await self._refuse("upstream_error", str(refused), refused.error_class)
            return None
        if self._known is None and plan.queue_ms is not None and self._age_ms() > plan.queue_ms:
            await self._refuse("timed_out", f"it waited longer than the {plan.queue_ms} ms of its route")
            return None
        return plan

    async def _attempts(self, request: Request) -> None:
        plan = await self._planned(request)
        if plan is None:
            return
        row: Attempt | None = None
        while True:
            step = await self._following(plan, row)
            if not isinstance(step, Next):
                await self._end(row or self._not_made(plan, *step), *step)
                return
            row = self._row(plan, step.choice, step.why, "started")
            made = plan if step.why != "continue" else replace(plan, call=continued(plan.call, self._answer))
            try:
                self._tools.desk.reserve(made, row)
            except LlmError as refused:
                row.state, row.error_class, row.ended_us = "refused", refused.error_class, row.started_us
                row.error_raw = str(refused)[:RAW_MAX]
                await self._end(row, "upstream_error", str(refused))
                return
            shown = await self._attempt(made, step, row)
            self._answer += shown.text
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
                )
            )

    async def _following(self, plan: Plan, row: Attempt | None) -> Next | tuple[EndReason, str]:
        """Say what is done next, after a wait if it takes one; or how it ends, and what a person reads."""
        step = self._tools.desk.decide(self.to, plan, self._tried, self._left_ms(plan))
        if isinstance(step, Stop):
            late = self._left_ms(plan) <= 0 or (row is not None and row.error_class == "timeout_total")
            return "timed_out" if late else "upstream_error", step.message
        if row is not None:
            self._pending.append(row)
        if step.wait_ms > _PENDING_MS_MAX:  # a crash would make a call that nobody knows the cost of it
            await self._commit([])
        if step.wait_ms:
            await self._waits(step.wait_ms)
        if self._cancelled.is_set():
            return self._ends_as, _STOPPED[self._ends_as]
        if step.why == "continue" and not self._can_continue():
            return replace(step, why="restart")
        return step

    def _can_continue(self) -> bool:
        return len(self._answer) < KEPT_MAX and can_be_continued(self._answer)

    async def _attempt(self, plan: Plan, step: Next, row: Attempt) -> Shown:
        """Put it on record, make the plan's call, settle it."""
        choice, call = step.choice, plan.call
        self._emitter.begin(row)
        supersedes = self._shown_anything and step.why not in ("continue", "resume")
        if supersedes:
            self._emitter.supersede(f"attempt {row.attempt}: {step.why}")
        row.epoch = self._emitter.content_epoch
        row.input_json = kept_input(call, plan.keep_input)
        try:
            await self._commit([row])
        except BaseException:
            self._tools.desk.release(row)  # nobody made the call, unless the ledger says so
            raise
        self._under_way = row
        shown = Shown(
            self._emitter,
            row,
            plan,
            asyncio.get_running_loop(),
            raw=self._raw_keeper(plan, row, choice),
            gate=self._tools.gate(plan, self._answer if step.why == "continue" else ""),
            schema=self._schema,
            stop=lambda: self._stop("gate"),
        )
        self._run = Run(
            self._tools.client,
            self._tools.providers[choice.target.shape],
            self._in_time(choice),
            replace(call, model=choice.model),
            shown,
            self._tools.outlet,
        )
        if self._cancelled.is_set():
            self._run.stop("cancelled")
        outcome = await self._run.run(max(self._left_ms(plan), 0) / 1_000)
        self._run = None
        shown.finish(outcome)
        if supersedes and (shown.anything or outcome.error_class is None):
            self._answer = ""
        self._shown_anything = self._shown_anything or shown.anything
        settle(row, outcome)
        row.output_json = kept_output(shown.text, plan.keep_output)
        self._tools.desk.settle(plan, row, shown)
        self._tools.metrics.settled(row)
        self._emitter.data("usage", usage_of(row))
        self._heard_us = now_us()
        return shown

    def _raw_keeper(self, plan: Plan, row: Attempt, choice: Choice) -> RawKeeper | None:
        if plan.keep_raw == "off":
            return None
        tools = self._tools
        return RawKeeper(
            row, choice.target, plan.keep_raw, tools.wire, tools.outlet, self.tenure.source.partition
        )

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

    # -- records ------------------------------------------------------------------------------------------

    def _row(self, plan: Plan | None, choice: Choice | None, why: Any, state: Any) -> Attempt:
        to = self.to
        row = Attempt(
            tenant=to.tenant,
            stream_id=to.stream_id,
            kind=to.kind,
            attempt=self._number if choice is not None else 0,
            epoch=self._emitter.epoch,
            state=state,
            request_id=to.request_id,
            task_id=to.task_id,
            why=why,
            requested_us=to.time_us,
            started_us=now_us(),
            worker=self._tools.worker,
            request_partition=self.tenure.source.partition,
            request_offset=self.offset,
        )
        if plan is not None:
            row.route, row.route_version = plan.route, plan.route_version
            row.prompt, row.prompt_version = plan.prompt, plan.prompt_version
        if choice is not None:
            row.provider, row.model = choice.target.name, choice.model
            self._number += 1
        return row

    async def _refuse(self, reason: EndReason, message: str, error_class: ErrorClass | None = None) -> None:
        """End it without a call; it is on the ledger all the same, as attempt 0."""
        await self._end(self._not_made(None, reason, message, error_class), reason, message)

    def _not_made(
        self, plan: Plan | None, reason: EndReason, message: str, error_class: ErrorClass | None = None
    ) -> Attempt:
        """Give the row of an operation that ends without a call, or another one after its owner died."""
        row = self._row(plan, None, "first", "refused")
        row.ended_us, row.error_raw = row.started_us, message[:RAW_MAX]
        before = self._tried[-1].error_class if self._tried else "bad_request"
        row.error_class = error_class or _CLASSES.get(reason, before)
        return row

    async def _end(self, row: Attempt, reason: EndReason, message: str) -> None:
        last = []
        self._emitter.flush()
        # A program cannot go by what a person reads in the end.
        if row.error_class and reason == "upstream_error":
            value = orjson.dumps({"error_class": row.error_class, "attempt": row.attempt}).decode()
            last.append(self._emitter.value("state", {"name": "error", "value_json": value}))
        last.append(self._emitter.end(reason, message))
        await self._tools.outlet.acknowledged(self.to.key)
        row.end_reason = reason
        self._pending = [each for each in self._pending if each is not row]
        # One transaction: of an operation that the ledger does not have, nothing may be in its stream.
        await self._commit([row], last)
        self._tools.metrics.ended(reason)

    async def _commit(self, rows: Sequence[Attempt], last: Sequence[bytes] = ()) -> None:
        pending, self._pending = self._pending, []
        partition = self.tenure.source.partition
        records = [
            Row(LLM_ATTEMPTS, row.key, row.encoded(self._tools.wire), partition) for row in (*pending, *rows)
        ]
        records += [Row(INPUT, self.to.key, value, partition) for value in last]
        await self._tools.committer.put(self.tenure, records, ends=self.offset if last else None)

    # -- time ---------------------------------------------------------------------------------------------

    @property
    def _connection(self) -> ConnectionPolicy:
        return self._tools.kinds.named(self.to.kind).connection

    def _queue_ms_max(self) -> int:
        return min(self._tools.queue_ms_max, in_time_ms(self._connection.idle_timeout_ms))

    def _in_time(self, choice: Choice) -> Choice:
        """Have the first content be there before the stream has been silent for too long."""
        silent_ms = max(now_us() - self._heard_us, 0) // 1_000
        left_ms = max(in_time_ms(self._connection.idle_timeout_ms) - silent_ms, 0)
        timers = choice.timers
        first_content_ms = min(timers.first_content_ms, left_ms)
        return replace(choice, timers=replace(timers, first_content_ms=first_content_ms))

    def _age_ms(self) -> int:
        """Since the broker took the request: whoever asked may have another clock."""
        return max(now_us() - self._asked_us, 0) // 1_000

    def _left_ms(self, plan: Plan) -> int:
        return plan.deadline_ms - self._age_ms()

    async def _waits(self, wait_ms: int) -> None:
        """Wait before another attempt, or until it is cancelled."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._cancelled.wait(), wait_ms / 1_000)
