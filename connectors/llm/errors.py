"""What is refused before a provider is called.

LlmError
├── CallRefused         a request cannot be made of what was asked for
├── RouteRefused        a route's configuration, or the budgets
├── PromptRefused       a prompt, its label or its variables
├── BudgetSpent         a tenant's budget has no room for a call
└── RecordingRefused    a recording cannot be read
"""

from __future__ import annotations

import re
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from schemas.errors import SluicegateError

if TYPE_CHECKING:
    from connectors.llm.deltas import ErrorClass


MESSAGE_MAX: Final = 2_000
"""Characters of what is said: it goes into a stream's `end`, and may quote a request; the ledger has it
``unquoted``."""


_QUOTED: Final = re.compile(r"""'(?:[^'\\]|\\.)*(?:'|$)|"(?:[^"\\]|\\.)*(?:"|$)""", re.DOTALL)


def unquoted(message: str) -> str:
    """Give a message of ours as the ledger has it, which keeps nobody's words: without what it quotes."""
    return _QUOTED.sub("…", message)


def place_of(error: BaseException) -> str:
    """Say where a defect of ours is, for a log: its own message may quote what a user or a provider said."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.name}:{frame.lineno}"


def with_remedy(message: str, remedy: str) -> str:
    """Have what is wrong followed by what to do about it."""
    return f"{message.rstrip('.')}. {remedy}" if remedy else message


CALL_ENDS_MS: Final = 1_000
"""After so long who was refused for calls in flight may ask again: by then one of some may have ended."""


class LlmError(SluicegateError):
    """Anything of language-model streams that is said to a person."""

    error_class: ErrorClass = "bad_request"
    """What a program is told of a request that is refused for it."""
    retry_after_ms: int = 0
    """After so long the same may be asked again; 0 = that would not help."""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        cut = len(message) > MESSAGE_MAX
        super().__init__(message[: MESSAGE_MAX - 1] + "…" if cut else message, remedy=remedy)

    @property
    def told(self) -> str:
        """What is wrong and what to do about it: whoever asked sees nothing else of it."""
        return with_remedy(str(self), self.remedy)


class CallRefused(LlmError):
    """A call cannot be made as it was asked for: nothing was sent."""

    def __init__(self, where: str, problem: str, remedy: str = "Correct the request.") -> None:
        super().__init__(f"{where}: {problem}", remedy=remedy)
        self.where = where
        if where == "route":
            self.error_class = "not_found"


class RouteRefused(LlmError):
    """A route's configuration cannot be used."""

    error_class = "not_found"


class PromptRefused(LlmError):
    """A prompt, its label or its variables cannot be used."""


class BudgetSpent(LlmError):
    """A tenant's budget does not have what a call may come to: nothing was sent.

    It is ``spend_limited``; of calls in flight ``rate_limited``, which passes as soon as one of them ends.
    """

    error_class: ErrorClass = "spend_limited"

    def __init__(self, tenant: str, bound: str, used: int, asked: int, most: int, renewed_us: int) -> None:
        """Take which bound of ``Limits`` it is; money is in 1e-9 USD; ``renewed_us`` 0 = when a call ends."""
        money = bound.startswith("usd")
        what = {"calls": "calls in flight"}.get(bound, bound.replace("_", " of this ").replace("usd", "USD"))
        numbers = [f"{one / 1e9:.6f}" if money else str(one) for one in (used, most, asked)]
        renewed = f"{datetime.fromtimestamp(renewed_us / 1e6, UTC):%Y-%m-%d %H:%M} UTC"
        if not renewed_us and asked > most:
            again = "It may make none"
        elif not renewed_us:
            self.error_class, self.retry_after_ms = "rate_limited", CALL_ENDS_MS
            again = "Ask again when a call of it has ended"
        elif asked > most:
            again = f"Ask for less: this is more than the whole of it, which is renewed at {renewed}"
        else:
            again = f"Ask again from {renewed} on, when it is renewed, or for less"
        super().__init__(
            f"tenant {tenant}: the budget of {what} {'is spent' if used >= most else 'has no room'}: "
            f"{numbers[0]} of {numbers[1]} are used or held, and this call may take {numbers[2]}",
            remedy=f"{again}; `sluicegate llm routes set budgets` changes it.",
        )
        self.tenant = tenant
        self.bound = bound
        self.of_money = money
        """Whether a call that costs less may fit."""


class RecordingRefused(LlmError):
    """A recording cannot be read."""
