"""A route as it is written down, as JSON on ``llm.routes.v1``: who is tried for an operation, and how.

Every field is checked when it is written and when it is read. A field that does not exist is an error: it
would be ignored, and nobody told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from connectors.llm.deltas import ErrorClass
from connectors.llm.errors import RouteRefused
from connectors.llm.gates import check_gate
from connectors.llm.plan import AfterContent, GateOptions, Keep, OnInvalid, RuleRow, Timers
from connectors.llm.prices import Price  # noqa: TC001  # pydantic reads it
from connectors.llm.rules import HOLD_CHARACTERS_MAX, RULES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.llm.request import Request

DEFAULT: Final = "default"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CONFIG_BYTES_MAX: Final = 262_144  # a few hundred candidates; a record holds at most 1 MiB
MODEL_BYTES_MAX: Final = 128  # what a usage event takes of a name
CANDIDATES_MAX: Final = 64  # two of each provider of the settings, which are 32 at the most
Policy = Literal["ordered", "weighted", "cheapest", "fastest"]

_STATUS: Final = re.compile(r"status:[45][0-9]{2}")
"""Any failure that a provider answered with such a status, whatever its class."""
NEVER: Final = frozenset({"cancelled", "gate", "crashed"})
"""Nobody else is asked after these: they are our own doing. A crashed attempt is made again in any case."""
FALLBACK_ON: Final[tuple[ErrorClass, ...]] = (
    "connect", "timeout_connect", "timeout_first_content", "timeout_between_contents", "timeout_total",
    "rate_limited", "spend_limited", "overloaded", "server", "unauthorized", "not_found",
    "context_overflow", "truncated", "malformed", "oversized",
)  # fmt: skip
"""By default whatever another provider may do better. Not a refused content (its own judgement), not a bad
request (it is ours), and not an invalid answer (whoever has it fail wants to know)."""


class Config(BaseModel):
    """Base of all that is written down by people."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class TimersConfig(Config):
    """Bounds of one attempt, in milliseconds. Pings and comments of a provider end none of them."""

    connect_ms: int = Field(5_000, ge=100, le=60_000, description="until a connection stands, TLS and all")
    first_content_ms: int = Field(
        30_000, ge=100, le=900_000, description="from the call to the first content"
    )
    between_contents_ms: int = Field(
        30_000, ge=100, le=900_000, description="from one content to the next, or to the end"
    )
    total_ms: int = Field(300_000, ge=100, le=3_600_000, description="from the call to its end")

    def timers(self) -> Timers:
        """Give them as the worker takes them."""
        return Timers(self.connect_ms, self.first_content_ms, self.between_contents_ms, self.total_ms)


class When(Config):
    """Conditions of a candidate: it is tried only if all of them hold. What is not named may be anything."""

    tenants: tuple[str, ...] = Field((), max_length=1_000, description="any of these asks")
    prompts: tuple[str, ...] = Field(
        (), max_length=100, description="any of these prompts: NAME, or NAME/VERSION"
    )
    labels: tuple[str, ...] = Field((), max_length=100, description="the prompt was asked for by this label")
    models: tuple[str, ...] = Field(
        (), max_length=100, description="the client named such a model; * stands for any characters"
    )
    tools: bool | None = Field(default=None, description="true: only with tools; false: only without")
    schema_: bool | None = Field(
        default=None, alias="schema", description="true: only where a JSON schema is asked for; false: not"
    )
    media: bool | None = Field(
        default=None, description="true: only with images or sound; false: only without"
    )

    def holds(self, request: Request, model: str, prompt: str, version: int) -> bool:
        """Whether a request fulfils them; ``model`` is what the client named, without its provider."""
        return (
            (not self.tenants or request.to.tenant in self.tenants)
            and (not self.prompts or prompt in self.prompts or f"{prompt}/{version}" in self.prompts)
            and (not self.labels or (bool(prompt) and request.prompt_label in self.labels))
            and (not self.models or any(fnmatchcase(model, pattern) for pattern in self.models))
            and self.tools in (None, bool(request.tools))
            and self.schema_ in (None, request.schema is not None)
            and self.media in (None, has_media(request))
        )


class Candidate(Config):
    """One provider and model."""

    target: str = Field(pattern=f"^{NAME.pattern}$", description="name of a provider of the settings")
    model: str = Field("", max_length=MODEL_BYTES_MAX, description="empty = the one that the client names")
    weight: float = Field(
        1.0, gt=0, le=1_000_000, description="share under the policy `weighted`, to others'"
    )
    when: When = When()
    retries: int = Field(1, ge=0, le=10, description="further calls of it after an error that may pass")
    timers: TimersConfig | None = Field(default=None, description="its own; none = the route's")
    can_continue: bool = Field(
        default=False,
        description="it goes on with an answer that is given as the last message; needed by `continue`",
    )
    can_resume: bool = Field(
        default=False,
        description="it keeps an answer and goes on with it though its connection breaks; needed by `resume`",
    )

    @field_validator("model")
    @classmethod
    def _is_a_name(cls, model: str) -> str:
        if not is_model_name(model):
            raise ValueError(f"is more than {MODEL_BYTES_MAX} bytes, or has characters that cannot be shown")
        return model


class KeepConfig(Config):
    """What of a call is kept beside the ledger: nothing, with secrets and personal data taken out, or all."""

    input: Keep = Field("off", description="what was sent")
    output: Keep = Field("off", description="what came")
    raw: Keep = Field("off", description="the provider's events, on llm.raw.v1")


class GateConfig(Config):
    """The stage between provider and stream."""

    hold_characters: int = Field(
        0, ge=0, le=HOLD_CHARACTERS_MAX, description="so many of the latest are held back; no match is longer"
    )
    hold_ms: int = Field(0, ge=0, le=60_000, description="none is held for longer; 0 = no such bound")
    rules: tuple[RuleRow, ...] = Field(
        (),
        max_length=RULES_MAX,
        description="[name, regular expression, pass | rewrite:TEXT | end:REASON], and perhaps [channels]",
    )
    function: str = Field(
        "", max_length=200, description="module:name of one of your own, that the workers were started with"
    )
    reasoning: bool = Field(default=False, description="reasoning passes it too, not the answer alone")
    tools: bool = Field(default=True, description="calls of tools pass it too, when the answer is over")
    media: Literal["pass", "drop"] = Field(
        "pass", description="what becomes of sound and pictures, which nobody judges"
    )

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        try:
            check_gate(self.options())
        except RouteRefused as refused:
            raise ValueError(str(refused)) from None
        return self

    def options(self) -> GateOptions:
        """Give them as the gate takes them."""
        return GateOptions(
            self.hold_characters,
            self.hold_ms,
            self.rules,
            self.function,
            self.reasoning,
            self.tools,
            self.media,
        )


class RouteConfig(Config):
    """A route."""

    candidates: tuple[Candidate, ...] = Field(min_length=1, max_length=CANDIDATES_MAX)
    policy: Policy = Field(
        "ordered",
        description="ordered: as they stand here; weighted: by their weights, the same for the same stream; "
        "cheapest: by the estimated cost of the call; fastest: by our own latest figures",
    )
    explore: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="fastest: share of streams that begin with another, so that its figures stay fresh",
    )
    fallback_on: tuple[str, ...] = Field(
        FALLBACK_ON,
        max_length=250,
        description="errors after which the next candidate is tried: classes, and status:400 to status:599",
    )
    after_content: AfterContent = Field(
        "restart", description="what a failure leads to once clients were shown something"
    )
    on_invalid: OnInvalid = Field(
        "report", description="what an answer that breaks its schema leads to: it is said, or it is a failure"
    )
    attempts_max: int = Field(4, ge=1, le=16, description="calls of one operation, all candidates together")
    deadline_ms: int = Field(
        600_000, ge=1_000, le=86_400_000, description="for all of them, from when it was asked for"
    )
    queue_ms: int | None = Field(
        default=None,
        ge=100,
        le=86_400_000,
        description="what was not begun so long after it was asked for ends; none = the worker's bound alone",
    )
    retry_wait_ms_max: int = Field(
        5_000,
        ge=0,
        le=600_000,
        description="a provider that asks to wait for longer is not waited for: the next is asked, or none",
    )
    max_output_tokens: int | None = Field(
        default=None, ge=1, le=10_000_000, description="bound of an answer; a request may ask for less"
    )
    timers: TimersConfig = TimersConfig()
    keep: KeepConfig = KeepConfig()
    gate: GateConfig | None = None
    prices: dict[str, Price] = Field(
        default_factory=dict,
        max_length=100,
        description="of one's own, by PROVIDER/MODEL or PROVIDER/*; before the settings' and the package's",
    )

    @field_validator("fallback_on")
    @classmethod
    def _can_be_met(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for number, condition in enumerate(value):
            if condition not in get_args(ErrorClass) and not _STATUS.fullmatch(condition):
                raise ValueError(f"item {number} is no error class, and none of status:400 to status:599")
        if never := sorted(NEVER.intersection(value)):
            raise ValueError(f"{', '.join(never)} leads to no other candidate")
        return value

    @model_validator(mode="after")
    def _can_be_continued(self) -> RouteConfig:
        if self.after_content == "continue" and not any(one.can_continue for one in self.candidates):
            raise ValueError("after_content=continue needs a candidate with can_continue=true")
        if self.after_content == "resume" and not any(one.can_resume for one in self.candidates):
            raise ValueError("after_content=resume needs a candidate with can_resume=true")
        return self


@dataclass(frozen=True, slots=True)
class Route:
    """A version of a route that is in force."""

    name: str
    version: int
    """0 = of no record: made of the settings."""
    config: RouteConfig


def route_config(text: str, name: str) -> RouteConfig:
    """Read a route.

    Raises:
        RouteRefused: names each field that is wrong.
    """
    if not NAME.fullmatch(name):
        raise RouteRefused(
            f"route {name[:80]!r}: a name has 1 to 64 of A-Z a-z 0-9 . _ -", remedy="Choose another name."
        )
    if len(text.encode()) > CONFIG_BYTES_MAX:
        raise RouteRefused(f"route {name}: more than {CONFIG_BYTES_MAX} bytes", remedy="Make it shorter.")
    try:
        return RouteConfig.model_validate_json(text)
    except ValidationError as error:
        raise RouteRefused(
            f"route {name}: {said(error)}", remedy="Correct the fields that are named."
        ) from None


def said(error: ValidationError) -> str:
    """Give what a check found, field by field, without the values: they may be anything."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    # A list counts only what is right in it: that it is too short follows from what is said of its members.
    within = {problem["loc"][:end] for problem in found for end in range(len(problem["loc"]))}
    problems = [
        f"{'.'.join(str(part) for part in problem['loc']) or 'document'}: "
        + problem["msg"].removeprefix("Value error, ")
        for problem in found
        if problem["loc"] not in within
    ]
    more = len(problems) - 8
    return "; ".join(problems[:8]) + (f"; and {more} more" if more > 0 else "")


def default_route(targets: Sequence[tuple[str, Sequence[str]]]) -> RouteConfig | None:
    """Make the route that holds where nobody wrote one: providers (name, models) in order; None without any.

    Of a provider with models the first whole name is asked for, or the one that the client names if it is
    among them; of one without, whichever the client names.
    """
    candidates = []
    for name, models in targets:
        candidates.append(Candidate(target=name, when=When(models=tuple(models) or ("*",))))
        first = next((model for model in models if "*" not in model), None)
        if first is not None:
            candidates.append(Candidate(target=name, model=first, when=When(models=("",))))
    return RouteConfig(candidates=tuple(candidates)) if candidates else None


def is_model_name(model: str) -> bool:
    """Whether it can be a model's name in records, events and messages."""
    return len(model.encode("utf-8", "replace")) <= MODEL_BYTES_MAX and model.isprintable()


def has_media(request: Request) -> bool:
    """Whether a request brings images or sound."""
    return any(
        part.get("type") == "media"
        for message in request.messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
    )
