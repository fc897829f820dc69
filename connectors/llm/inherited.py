"""What the ledger has of an operation that another worker began: what was tried, what is gone on with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from connectors.llm.plan import Tried

if TYPE_CHECKING:
    from connectors.llm.ledger import Attempt, Known
    from connectors.llm.plan import Choice, Plan


def others_shown(known: Known, offset: int) -> bool:
    """Whether clients may have something of another question's answer, whose the stream is not."""
    return not known.unseen and any(
        may_have_shown(row, None) for row in known.attempts.values() if row.request_offset != offset
    )


def kept_of(known: Known, offset: int, plan: Plan | None) -> list[tuple[Attempt, Choice]]:
    """Give a dead owner's attempts whose providers keep the answers, and who these are, the latest first."""
    if plan is None or plan.after_content != "resume":
        return []
    return [
        (row, choice)
        for row in reversed(known.unsettled)
        if row.request_offset == offset and row.provider_request_id
        for choice in plan.choices
        if choice.can_resume and (choice.target.name, choice.model) == (row.provider, row.model)
    ]


def may_go_on(known: Known, offset: int, plan: Plan) -> bool:
    """Whether an answer that its provider keeps may be gone on with.

    It is read from its beginning, as nobody knows what of it was shown: not where that would be shown again
    to who cannot take it back, nor where a client might make a call of a tool again that cannot be.
    """
    if not plan.no_reset and not (plan.side_effects and plan.call.tools):
        return True
    rows = known.attempts.values()
    return not any(may_have_shown(row, plan) for row in rows if row.request_offset == offset)


def tried_of(known: Known, offset: int, plan: Plan | None, *, with_tools: bool) -> list[Tried]:
    """Give a dead owner's attempts of this question, as far as they are settled, oldest first."""
    tried = []
    for _, row in sorted(known.attempts.items()):
        if row.request_offset != offset or row.state in ("started", "refused"):
            continue
        had_content = may_have_shown(row, plan)
        error: Any = row.error_class or "crashed"
        tools = had_content and with_tools
        tried.append(Tried(row.provider, row.model, error, had_content, tools, status=row.http_status))
    return tried


def may_have_shown(row: Attempt, plan: Plan | None) -> bool:
    """Whether clients may have something of an attempt.

    Of one that its owner did not settle nobody knows, but where the plan is one by which it would have been
    noted before (``trial.py``).
    """
    shown = row.contents > 0 if row.shown is None else row.shown
    if shown or row.state not in ("abandoned", "started"):
        return shown
    route = row.route, row.route_version
    return plan is None or not plan.keeps_shown or route != (plan.route, plan.route_version)
