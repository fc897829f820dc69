"""What comes after an attempt that was not good: the same again, somebody else, or the end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from connectors.llm.plan import Next, Stop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from connectors.llm.calls import Call
    from connectors.llm.deltas import ErrorClass
    from connectors.llm.plan import Choice, Plan, Tried, Why

PASSES: Final[frozenset[ErrorClass]] = frozenset(
    ("connect", "timeout_connect", "timeout_first_content", "timeout_between_contents", "rate_limited",
     "overloaded", "server", "truncated", "malformed", "crashed")
)  # fmt: skip
"""Errors that the same call may not meet a second time. A spent limit does not pass by waiting, and what took
all of its time once will do so again."""
OF_PROVIDER: Final[frozenset[ErrorClass]] = frozenset(("spend_limited", "unauthorized"))
"""Errors of the account: none of the provider's models is tried any more."""
BACKOFF_MS: Final = 250
BACKOFF_MS_MAX: Final = 8_000
SHORTEST_MS: Final = 100
"""Less time than this before the deadline, and no provider is asked: it would only be paid for."""


def decide(plan: Plan, tried: Sequence[Tried], elapsed_ms: int, *, chance: float = 0.5) -> Next | Stop:
    """Say what is done after the attempts so far, oldest first; none = the operation begins.

    ``elapsed_ms`` is since the operation was asked for, ``chance`` (from 0 to below 1) spreads waits.

    1. Nothing more is tried after a cancel or a verdict of the gate; after a call of a tool that does what
       cannot be taken back; after ``attempts_max`` attempts; or past the deadline.
    2. Once clients were shown something, ``after_content`` decides whether and how it goes on: ``surface``
       ends; ``continue`` is ``restart`` where the provider cannot do it, and so is ``resume``: what could
       be gone on with was (``attempt.py``), and is no failure that comes here. Under ``no_reset`` what would
       be ``restart`` ends, and only who can continue is asked. Before that a failure is invisible, and costs
       a client nothing but time.
    3. The same again, if the error may pass, retries are left and the wait ends before the deadline. A
       provider that asks for more patience than the plan has is not waited for: each wait holds one of the
       worker's calls.
    4. The next one in order that was not tried yet, if the error, or the status that it came with, is one to
       fall back on, at once. Never one whose provider said that the account is refused, or spent.
    5. Else the end.

    ``why`` tells the worker what becomes of what clients were shown: ``continue`` goes on behind it, anything
    else supersedes it, with a ``reset`` if there is something.
    """
    if (stop := _over(plan, tried, elapsed_ms)) is not None:
        return stop
    if not tried:
        return Next(plan.choices[0], "first")
    last = tried[-1]
    shown = any(one.had_content for one in tried)
    if shown and plan.keeps_shown and not _continues(plan):
        return surfaced(plan, last)
    left_ms = plan.deadline_ms - elapsed_ms
    usable = _who_continue(plan) if shown and plan.no_reset else plan
    again = _again(usable, tried, left_ms, chance)
    other = _other(usable, tried)
    waits_ms = 0 if again is None else again.wait_ms if other is not None else last.retry_after_ms
    if waits_ms > plan.retry_wait_ms_max:
        again = None
    following = again or other
    if following is None:
        long = waits_ms > plan.retry_wait_ms_max
        return Stop(f"{_what(last)}; {_too_long(plan, waits_ms) if long else _no_more(plan, tried)}")
    if not shown:
        return following
    return replace(following, why=_why(plan, following))


def surfaced(plan: Plan, last: Tried) -> Stop:
    """End it with what clients were shown, which stays."""
    why = "this route ends there" if plan.after_content == "surface" else "it may not begin anew"
    return Stop(f"{_what(last)} after a part of the answer; {why}")


def _over(plan: Plan, tried: Sequence[Tried], elapsed_ms: int) -> Stop | None:
    if not tried:
        late = elapsed_ms > plan.deadline_ms - SHORTEST_MS
        return Stop(f"it was not begun within the {plan.deadline_ms} ms that it had") if late else None
    last = tried[-1]
    if last.error_class in ("cancelled", "gate"):
        return Stop(_what(last))
    if plan.side_effects and any(_may_have_acted(plan, one) for one in tried):
        return Stop(f"{_what(last)} after a tool was called; what it did cannot be taken back")
    if len(tried) >= plan.attempts_max:
        return Stop(f"{_what(last)}; {len(tried)} attempts were made, which is all that the route allows")
    if elapsed_ms > plan.deadline_ms - SHORTEST_MS:
        return Stop(f"{_what(last)}; no time is left of the {plan.deadline_ms} ms that it had")
    return None


def _may_have_acted(plan: Plan, one: Tried) -> bool:
    """Whether a tool was called; of an attempt whose worker died nobody can say that none was."""
    return one.had_tool_call or (one.error_class == "crashed" and one.had_content and bool(plan.call.tools))


def _again(plan: Plan, tried: Sequence[Tried], left_ms: int, chance: float) -> Next | None:
    last = tried[-1]
    choice = _choice_of(plan, last)
    if choice is None or last.error_class not in PASSES or _is_excluded(choice, tried):
        return None
    if last.error_class == "crashed":  # it is the worker that failed: whoever was asked did nothing wrong
        return Next(choice, "crash")
    failures = sum(_is_of(choice, one) and one.error_class != "crashed" for one in tried)
    if failures > choice.retries:
        return None
    backoff_ms = min(BACKOFF_MS * 2 ** (failures - 1), BACKOFF_MS_MAX) * (0.5 + chance / 2)
    wait_ms = max(last.retry_after_ms, round(backoff_ms))
    return Next(choice, "retry", wait_ms) if wait_ms + SHORTEST_MS <= left_ms else None


def _other(plan: Plan, tried: Sequence[Tried]) -> Next | None:
    if not _falls_back(plan, tried[-1]):
        return None
    choice = next(untried(plan, tried), None)
    return None if choice is None else Next(choice, "fallback")


def _falls_back(plan: Plan, last: Tried) -> bool:
    """Whether another candidate may be asked after an error, by its class or the status that it came with."""
    return last.error_class == "crashed" or not plan.fallback_on.isdisjoint(
        (last.error_class, f"status:{last.status}")
    )


def untried(plan: Plan, tried: Sequence[Tried]) -> Iterator[Choice]:
    """Give who was not asked yet and may be, in the plan's order."""
    for choice in plan.choices:
        if not any(_is_of(choice, one) for one in tried) and not _is_excluded(choice, tried):
            yield choice


def continued(call: Call, answer: str) -> Call:
    """Make the call that goes on with an answer, of which clients have so much: it is the last message.

    Some providers refuse one that ends with white space; see ``can_be_continued``.
    """
    return replace(call, messages=[*call.messages, {"role": "assistant", "content": answer}])


def can_be_continued(answer: str) -> bool:
    """Whether there is text to go on with, as it stands: nothing of it may be cut off for the call."""
    return bool(answer) and answer == answer.rstrip()


def _is_excluded(choice: Choice, tried: Sequence[Tried]) -> bool:
    return any(one.target == choice.target.name and one.error_class in OF_PROVIDER for one in tried)


def _continues(plan: Plan) -> bool:
    return plan.after_content == "continue" and not plan.call.tools and plan.call.schema is None


def _who_continue(plan: Plan) -> Plan:
    return replace(plan, choices=[choice for choice in plan.choices if choice.can_continue])


def _why(plan: Plan, following: Next) -> Why:
    if _continues(plan) and following.choice.can_continue:
        return "continue"
    return "crash" if following.why == "crash" else "restart"


def _choice_of(plan: Plan, one: Tried) -> Choice | None:
    """Give who made an attempt; None = the plan has changed since, as a crash lies between."""
    return next((choice for choice in plan.choices if _is_of(choice, one)), None)


def _is_of(choice: Choice, one: Tried) -> bool:
    return choice.target.name == one.target and choice.model == one.model


def _what(last: Tried) -> str:
    why = last.error_class.replace("_", " ") if last.refused is None else str(last.refused).rstrip(".")
    return f"{last.target} {last.model}: {why}"


def _too_long(plan: Plan, wait_ms: int) -> str:
    asked_s, most_s = wait_ms / 1_000, plan.retry_wait_ms_max / 1_000
    return (
        f"it asks to wait for {asked_s:.1f} s, the route waits for {most_s:.1f} at most; none other is left"
    )


def _no_more(plan: Plan, tried: Sequence[Tried]) -> str:
    if not _falls_back(plan, tried[-1]):
        return "the route tries no other provider after that"
    return f"no provider of the route is left of {len(plan.choices)}"
