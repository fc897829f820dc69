"""One attempt of an operation: it is put on record, made, shown as it comes, and settled.

What a worker that takes over must know is on record, too: of an answer that may not begin anew once something
of it was shown, that there is something, before it is shown; of one that its provider keeps, its name.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from connectors.llm.attempt import Attempt as Run
from connectors.llm.attempt import drop
from connectors.llm.kept import kept_input, kept_output
from connectors.llm.provider import Keeping
from connectors.llm.raw import RawKeeper
from connectors.llm.settling import settle, usage_of
from connectors.llm.shown import Shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from connectors.llm.answer_schemas import AnswerSchema
    from connectors.llm.deltas import ErrorClass
    from connectors.llm.emitter import Emitter
    from connectors.llm.entries import Entries
    from connectors.llm.ledger import Attempt
    from connectors.llm.patience import Patience
    from connectors.llm.plan import Choice, Plan
    from connectors.llm.provider import Cursor
    from connectors.llm.tools import Tools
    from connectors.llm.valve import Valve

_FIRST: Final = "first content"


def _nothing() -> None:
    pass


class Trial:
    """One row's; ``plan.call`` is what is sent, to ``choice``.

    With a ``cursor`` it was sent before, by a worker that died, and the answer is read on.
    """

    def __init__(
        self,
        tools: Tools,
        entries: Entries,
        emitter: Emitter,
        patience: Patience,
        plan: Plan,
        choice: Choice,
        row: Attempt,
        schema: AnswerSchema | None,
        valve: Valve,
        cursor: Cursor | None = None,
    ) -> None:
        self._tools = tools
        self._entries = entries
        self._emitter = emitter
        self._patience = patience
        self._plan = plan
        self._choice = choice
        self.row = row
        self._schema = schema
        self._valve = valve
        self._cursor = cursor
        self._run: Run | None = None
        self._stopped: ErrorClass | None = None
        self._noting: list[asyncio.Task[None]] = []
        """Commits that nobody waited for yet: its provider's name of it, and that something is shown."""
        self.dropping: asyncio.Task[None] | None = None
        """Tells the provider that nobody reads an answer any more which it goes on with."""

    def stop(self, why: ErrorClass) -> None:
        """End the call, at once or before it is made; what came of it stays."""
        self._stopped = self._stopped or why
        if self._run is not None:
            self._run.stop(why)

    async def put_on_record(self) -> None:
        """Have the ledger know of the call before it is made. Raises PartitionLost."""
        row = self.row
        row.epoch = self._emitter.content_epoch
        try:
            row.input_json = kept_input(self._plan.call, self._plan.keep_input)
            await self._entries.commit([row])
        except BaseException:
            if self._cursor is None:
                self._tools.desk.release(row)  # nobody made the call, unless the ledger says so
            raise

    async def make(self, before: str, partition: int) -> Shown:
        """Make the call, which goes on behind ``before``; its raw events go to ``partition``."""
        plan, row, choice, tools = self._plan, self.row, self._choice, self._tools
        provider = tools.providers[choice.target.shape]
        background = plan.after_content == "resume" and choice.can_resume and isinstance(provider, Keeping)
        shown = Shown(
            self._emitter,
            row,
            plan,
            asyncio.get_running_loop(),
            raw=None
            if plan.keep_raw == "off"
            else RawKeeper(row, choice.target, plan.keep_raw, tools.wire, tools.outlet, partition),
            gate=tools.gate(plan, before),
            schema=self._schema,
            known=self._note if background else _nothing,
            first=self._note_first if plan.keeps_shown else _nothing,
            stop=lambda: self.stop("gate"),
        )
        self._run = run = Run(
            tools.client,
            provider,
            self._patience.in_time(choice),
            replace(plan.call, model=choice.model, background=background),
            shown,
            self._valve,
            self._cursor,
        )
        if self._cursor is not None:
            self._emitter.named(row.provider_request_id)
        if self._stopped is not None:
            run.stop(self._stopped)
        try:
            outcome = await run.run(max(self._patience.left_ms(plan), 0) / 1_000)
            self._run = None
            if outcome.left:
                self.dropping = asyncio.get_running_loop().create_task(
                    drop(tools.client, provider, choice.target, outcome.left)
                )
            shown.finish(outcome)
            await asyncio.gather(*self._noting)
        finally:
            for noting in self._noting:
                noting.cancel()
        return shown

    def _note_first(self) -> None:
        """Have the ledger know that something is shown before it is, which takes some milliseconds."""
        self._valve.shut(_FIRST)
        self._note(lambda: self._valve.open(_FIRST))

    def _note(self, then: Callable[[], None] = _nothing) -> None:
        """Have the ledger know what is known of the call by now, and nobody wait for it; ``then`` it does."""
        self._noting.append(asyncio.get_running_loop().create_task(self._noted(then)))

    async def _noted(self, then: Callable[[], None]) -> None:
        try:
            await self._entries.commit([self.row])
        except BaseException:
            self.stop("crashed")  # it is another worker's now, or all of them fail
            raise
        then()

    def settle(self, shown: Shown) -> None:
        """Say in its row, and in the stream, what it took and cost."""
        row = self.row
        settle(row, shown.outcome)
        said = shown.outcome.said if self._plan.keep_raw == "full" else ""
        row.output_json = kept_output(shown.contents, self._plan.keep_output, said)
        self._tools.desk.settle(self._plan, row, shown)
        self._tools.metrics.settled(row, configured=self._choice.named)
        self._emitter.data("usage", usage_of(row))
        self._patience.heard()
