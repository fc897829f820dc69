"""Where an operation's questions are answered: the plan, what comes next, the budget, the cost."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from connectors.llm.budgets import Budgets, tokens_of
from connectors.llm.deltas import Usage
from connectors.llm.errors import BudgetSpent
from connectors.llm.fallback import decide, untried
from connectors.llm.figures import Figures
from connectors.llm.prices import NOTHING, UNCOUNTED, counted, output_tokens_max
from connectors.llm.routing import draw_of, plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.llm.book import Book
    from connectors.llm.errors import LlmError
    from connectors.llm.ledger import Attempt
    from connectors.llm.plan import Choice, Next, Plan, Stop, Tried
    from connectors.llm.prices import Counted
    from connectors.llm.request import Envelope, Request


class Came(Protocol):
    """What an attempt brought."""

    @property
    def sent(self) -> bool:
        """Whether the provider may have been given anything."""
        ...

    @property
    def size_bytes(self) -> int:
        """UTF-8 of all text, reasoning, refusal and arguments."""
        ...

    @property
    def media(self) -> bool:
        """Whether sound or pictures came."""
        ...


class RoutingDesk:
    """Satisfies ``tools.Desk``; belongs to one loop. ``saw`` is to be given every row of the ledger."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.figures = Figures()
        self.budgets = Budgets(lambda: book.budgets)

    def saw(self, row: Attempt) -> None:
        """Take a row of the ledger, of any worker."""
        self.figures.take(row)
        self.budgets.take(row)

    def plan(self, request: Request) -> Plan:
        """See ``routing.plan``."""
        return plan(request, self.book, self.figures, draw_of(request.to.tenant, request.to.stream_id))

    def decide(self, to: Envelope, plan: Plan, tried: Sequence[Tried], left_ms: int) -> Next | Stop:
        """See ``fallback.decide``; waits of many streams do not end at once, those of one are the same."""
        chance = draw_of(to.tenant, to.stream_id)(f"wait {len(tried)}")
        return decide(plan, tried, plan.deadline_ms - left_ms, chance=chance)

    def reserve(self, plan: Plan, row: Attempt) -> Plan:
        """Hold what the attempt may come to, and note it in its row; give the plan with the call to send.

        Where an answer counts against a budget, it is bounded by what is held for it.

        Raises:
            BudgetSpent: the tenant's budget has no room for it; nothing is held.
        """
        choice = _choice_of(plan, row)
        row.model_named = choice.named or self.figures.knows(row.provider, row.model)
        reserve = self.book.prices.reserve_for(plan.call, choice, plan.prices)
        self.budgets.reserve(row.key.decode(), row.tenant, reserve, row.started_us)
        row.reserved_tokens, row.reserved_nanos = reserve.tokens, reserve.nanos or 0
        if not self.book.budgets.of(row.tenant).bind_answers:
            return plan
        params = replace(plan.call.params, max_output_tokens=output_tokens_max(plan.call, choice))
        return replace(plan, call=replace(plan.call, params=params))

    def cheaper(self, plan: Plan, tried: Sequence[Tried], row: Attempt, refused: LlmError) -> Choice | None:
        """Give the next candidate that costs less than ``row``'s, and for which the tenant has the money.

        None where it is no money that is spent (every candidate takes as many tokens, and a call), where the
        route does not fall back on ``spend_limited``, or where nobody is left: one without a price is not
        taken for a cheap one.
        """
        if not (
            isinstance(refused, BudgetSpent) and refused.of_money and "spend_limited" in plan.fallback_on
        ):
            return None
        prices = self.book.prices
        dear = prices.reserve_for(plan.call, _choice_of(plan, row), plan.prices)
        for choice in untried(plan, tried):
            reserve = prices.reserve_for(plan.call, choice, plan.prices)
            if reserve.nanos is None or dear.nanos is None or reserve.nanos >= dear.nanos:
                continue
            if self.budgets.spent_by(row.tenant, reserve, row.started_us) is None:
                return choice
        return None

    def release(self, row: Attempt) -> None:
        """Let go of what was held for an attempt that was not made."""
        self.budgets.release(row.key.decode())

    def settle(self, plan: Plan | None, row: Attempt, came: Came | None) -> None:
        """Note in its row what an attempt took and cost, and let go of the rest of what was held.

        Without a plan, or without what it brought, its worker died: nobody knows what it took.
        """
        answered = row.state == "completed" or row.contents > 0
        row.model_named = row.model_named or answered or self.figures.knows(row.provider, row.model)
        if plan is not None and came is not None:
            choice = _choice_of(plan, row)
            used = _counted(plan, row, came)
            row.count(used.usage)
            row.usage_source = used.source
            cost = self.book.prices.cost_of(
                used,
                choice.target,
                row.model,
                answered=row.model_answered,
                route=plan.prices,
                at_us=row.started_us,
            )
            row.cost_nanos, row.cost_source, row.price_version = cost.nanos, cost.source, cost.version
        self.budgets.settle(row.key.decode(), tokens_of(row), row.cost_nanos)


def _counted(plan: Plan, row: Attempt, came: Came) -> Counted:
    said = row.usage
    if not came.sent:
        return NOTHING
    if said == Usage() and not row.contents:
        if row.http_status >= 300:
            return NOTHING
        if not row.http_status:  # sent, and no answer came: it may have begun to think, and bill for it
            return UNCOUNTED
    return counted(said, plan.call, came.size_bytes, whole=bool(row.finish), media=came.media)


def _choice_of(plan: Plan, row: Attempt) -> Choice:
    return next(one for one in plan.choices if (one.target.name, one.model) == (row.provider, row.model))
