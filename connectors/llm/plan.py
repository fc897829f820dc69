"""What is to be done about one request: which providers are tried, with what, and what a failure leads to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.llm.calls import Call, Target
    from connectors.llm.deltas import ErrorClass
    from connectors.llm.errors import CallRefused
    from connectors.llm.prices import Price
    from schemas.kinds import ConnectionPolicy

RuleRow = tuple[str, str, str] | tuple[str, str, str, tuple[str, ...]]
AfterContent = Literal["resume", "restart", "continue", "surface"]
"""A failure after content: go on where the provider can be asked to; start over with a ``reset``; have the
text so far continued; or end the stream as it is."""
OnInvalid = Literal["report", "fail"]
"""An answer that breaks its schema: say so, and leave it to whoever reads it; or take it for a failure."""
Why = Literal["first", "retry", "fallback", "restart", "resume", "continue", "crash"]
Keep = Literal["off", "redacted", "full"]


@dataclass(frozen=True, slots=True)
class Timers:
    """Bounds of one attempt; pings and comments end none of them."""

    connect_ms: int = 5_000
    """From the call until a connection stands, TLS and all; a status may come with the first token."""
    first_content_ms: int = 30_000
    """From the call to the first content."""
    between_contents_ms: int = 30_000
    total_ms: int = 300_000


MARGIN_MS_MAX: Final = 5_000
"""So long before ``ingest`` would end a silent stream a call is given up, or a tenth of the time-out: what is
said of it then still counts."""


@dataclass(frozen=True, slots=True)
class GateOptions:
    """The stage between provider and stream; see ``connectors/llm/gates.py``."""

    hold_characters: int = 0
    """So many of the latest characters are held back, so that a rule sees what stands around a match."""
    hold_ms: int = 0
    """No character is held back for longer; 0 = no bound but the characters."""
    rules: Sequence[RuleRow] = ()
    """(name, regular expression, action): pass, rewrite:TEXT or end:REASON; and channels, if it is not about
    all that pass the gate."""
    function: str = ""
    """``module:name`` of a user's own gate, one of those that the worker was started with."""
    reasoning: bool = False
    """Whether reasoning passes the gate too; text and refusals always do."""
    tools: bool = True
    """Whether calls of tools do, when the answer is over."""
    media: Literal["pass", "drop"] = "pass"
    """What becomes of sound and pictures, which nobody judges."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One provider and model that may be tried."""

    target: Target
    model: str
    timers: Timers = field(default_factory=Timers)
    retries: int = 1
    """Further calls of the same after an error that may pass."""
    can_continue: bool = False
    """Whether it goes on with an answer that is given as the last message; somebody has tried."""
    can_resume: bool = False
    """Whether it keeps an answer, and goes on with it, though its connection breaks."""
    named: bool = True
    """Whether routes, prices or settings name the model, and not a client alone."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One operation's way; ``call`` has its prompt rendered, and no model yet."""

    call: Call
    choices: Sequence[Choice]
    """In the order in which they are tried."""
    fallback_on: frozenset[str]
    """Error classes, and ``status:409`` and others."""
    after_content: AfterContent = "restart"
    attempts_max: int = 4
    deadline_ms: int = 600_000
    """For all attempts together, from when it was asked for."""
    queue_ms: int | None = None
    """What was not begun so long after it was asked for is not begun any more; None = the worker's bound."""
    retry_wait_ms_max: int = 5_000
    """A provider that asks to wait for longer is left for the next one; without one it is the end."""
    route: str = "default"
    route_version: int = 0
    prompt: str = ""
    prompt_version: int = 0
    keep_input: Keep = "off"
    keep_output: Keep = "off"
    keep_raw: Keep = "off"
    gate: GateOptions | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    """The route's own, before all others; see ``connectors/llm/prices.py``."""
    side_effects: bool = False
    on_invalid: OnInvalid = "report"
    no_reset: bool = False
    """Whether clients cannot take back what they were shown: what cannot be gone on with ends as it is."""

    @property
    def keeps_shown(self) -> bool:
        """Whether nothing supersedes what clients were shown."""
        return self.no_reset or self.after_content == "surface"


@dataclass(frozen=True, slots=True)
class Tried:
    """How an attempt ended that was not good."""

    target: str
    model: str
    error_class: ErrorClass
    had_content: bool
    """Whether clients were shown anything of it."""
    had_tool_call: bool = False
    retry_after_ms: int = 0
    status: int = 0
    """HTTP status of the provider's answer; 0 = none came."""
    refused: CallRefused | None = None
    """Why nothing was sent. It is ours to tell; a provider's own words are told nobody who asked."""


@dataclass(frozen=True, slots=True)
class Next:
    """Another attempt is made."""

    choice: Choice
    why: Why
    wait_ms: int = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing more is tried; ``message`` is what the ``end`` says to a person."""

    message: str


def in_time_ms(timeout_ms: int) -> int:
    """Give how long may pass of a time-out of ``ingest``'s, so that the stream can still say how it ended."""
    return timeout_ms - min(MARGIN_MS_MAX, timeout_ms // 10)


def within(plan: Plan, connection: ConnectionPolicy) -> Plan:
    """Bound a plan by what its kind of stream may last: nobody is there for what comes after it.

    A wait has half of the silence that is allowed, so that the call after it has the other half.
    """
    silent_ms, all_ms = in_time_ms(connection.idle_timeout_ms), in_time_ms(connection.total_timeout_ms)

    def bounded(choice: Choice) -> Choice:
        timers = choice.timers
        return replace(
            choice,
            timers=Timers(
                timers.connect_ms,
                min(timers.first_content_ms, silent_ms),
                min(timers.between_contents_ms, silent_ms),
                timers.total_ms,
            ),
        )

    return replace(
        plan,
        choices=[bounded(choice) for choice in plan.choices],
        deadline_ms=min(plan.deadline_ms, all_ms),
        retry_wait_ms_max=min(plan.retry_wait_ms_max, silent_ms // 2),
    )
