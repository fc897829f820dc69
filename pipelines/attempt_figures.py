"""What a window of the ledger holds: sums over the attempts of one tenant, provider, model and prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from pipelines.figures import Sums, names_of_state_key, names_of_topic_key, topic_key
from schemas.envelope import LONG_MAX
from schemas.latency import bucket_of
from state.binary import pack_texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLASSES_MAX: Final = 32
"""Classes of errors that a window counts by name: half as many again as there are."""
OTHER: Final = "other"
REFUSED: Final = "refused"
_OUTCOMES: Final = frozenset({"completed", "failed", "cancelled", "abandoned"})
_WHYS: Final = {
    "retry": "retries", "fallback": "fallbacks", "restart": "restarts", "resume": "restarts",
    "continue": "restarts", "crash": "restarts",
}  # fmt: skip
_TOKENS: Final = (
    "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
)  # fmt: skip


class Called(NamedTuple):
    """Whose attempts a window counts."""

    tenant: str
    kind: str
    provider: str
    model: str
    prompt: str
    prompt_version: int

    def state_key(self) -> bytes:
        """See ``pipelines.figures.Grouped``."""
        return pack_texts(*self._names())

    def topic_key(self) -> bytes:
        """Return ``tenant/kind/provider/model/prompt/prompt_version``."""
        return topic_key(self._names())

    @classmethod
    def of_topic_key(cls, key: bytes) -> Called:
        """See ``pipelines.figures.Grouped``."""
        return cls._of(names_of_topic_key(key, cls._fields))

    @classmethod
    def of_state_key(cls, key: bytes) -> Called:
        """See ``pipelines.figures.Grouped``."""
        return cls._of(names_of_state_key(key, len(cls._fields)))

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any]) -> Called:
        """Return the group of an attempt or a partial.

        What was refused before a provider was chosen has a model of the client's own words, and perhaps a
        prompt (version 0): as names of a group there could be any number of them, as of models that a client
        alone names, and that never answered.
        """
        group = cls(*(fields[name] for name in cls._fields))
        if group.provider:
            return group if fields.get("model_named", True) else group._replace(model=OTHER)
        return group._replace(model="", prompt=group.prompt if group.prompt_version else "")

    def _names(self) -> tuple[str, ...]:
        return (*self[:5], str(self.prompt_version))

    @classmethod
    def _of(cls, names: Sequence[str]) -> Called:
        tenant, kind, provider, model, prompt, version = names
        return cls(tenant, kind, provider, model, prompt, int(version))


@dataclass(slots=True)
class AttemptFigures(Sums):
    """Attempts in a window; ``sluicegate.LlmWindow`` says what each is."""

    SUMS: ClassVar = (
        "calls", "completed", "failed", "cancelled", "abandoned", "refused", "retries", "fallbacks",
        "restarts", *_TOKENS, "tokens_estimated", "tokens_unknown", "known_nanos", "estimated_nanos",
        "cost_unknown", "first_contents", "first_content_ms_sum", "stream_ms_sum", "stream_tokens",
        "duration_ms_sum",
    )  # fmt: skip
    MAXES: ClassVar = ("first_content_ms_max", "duration_ms_max")
    MAPS: ClassVar = ("errors", "first_content_ms")

    calls: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    abandoned: int = 0
    refused: int = 0
    retries: int = 0
    fallbacks: int = 0
    restarts: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    tokens_estimated: int = 0
    tokens_unknown: int = 0
    known_nanos: int = 0
    estimated_nanos: int = 0
    cost_unknown: int = 0
    first_contents: int = 0
    first_content_ms_sum: int = 0
    stream_ms_sum: int = 0
    stream_tokens: int = 0
    duration_ms_sum: int = 0
    first_content_ms_max: int = 0
    duration_ms_max: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    first_content_ms: dict[str, int] = field(default_factory=dict)

    def add(self, attempt: Mapping[str, Any]) -> None:
        """Take in a settled attempt (``sluicegate.LlmAttempt``)."""
        self.revision += 1
        if attempt["error_class"]:
            self._count(self.errors, attempt["error_class"])
        if attempt["state"] == REFUSED:  # nobody was called: it has neither time nor cost
            self.sum_up(refused=1)
            return
        outcome = attempt["state"] if attempt["state"] in _OUTCOMES else "failed"
        self.sum_up(calls=1, **{outcome: 1})
        if (why := _WHYS.get(attempt["why"])) is not None:
            self.sum_up(**{why: 1})
        self._add_usage(attempt)
        self._add_times(attempt)

    def _add_usage(self, attempt: Mapping[str, Any]) -> None:
        self.sum_up(**{name: max(attempt[name] or 0, 0) for name in _TOKENS})
        if attempt["input_tokens"] is None or attempt["output_tokens"] is None:
            self.sum_up(tokens_unknown=1)
        elif attempt["usage_source"] == "estimated":
            self.sum_up(tokens_estimated=1)
        known, estimated, unknown = cost_of(attempt)
        self.sum_up(known_nanos=known, estimated_nanos=estimated, cost_unknown=unknown)

    def _add_times(self, attempt: Mapping[str, Any]) -> None:
        duration_ms = _ms(attempt["started_us"], attempt["ended_us"])
        self.sum_up(duration_ms_sum=duration_ms)
        self.duration_ms_max = max(self.duration_ms_max, duration_ms)
        if not attempt["first_content_us"]:
            return
        first_ms = _ms(attempt["started_us"], attempt["first_content_us"])
        self.sum_up(first_contents=1, first_content_ms_sum=first_ms)
        self.first_content_ms_max = max(self.first_content_ms_max, first_ms)
        self._count(self.first_content_ms, bucket_of(first_ms))
        if attempt["output_tokens"] is not None:
            stream_ms = _ms(attempt["first_content_us"], attempt["last_content_us"])
            self.sum_up(stream_ms_sum=stream_ms, stream_tokens=max(attempt["output_tokens"], 0))

    @staticmethod
    def _count(counts: dict[str, int], name: str) -> None:
        if name not in counts and len(counts) >= CLASSES_MAX:
            name = OTHER
        counts[name] = min(counts.get(name, 0) + 1, LONG_MAX)


def cost_of(attempt: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return an attempt's known and estimated cost, 1e-9 USD, and 1 if it is not known at all."""
    nanos = attempt["cost_nanos"]
    if attempt["state"] == REFUSED:
        return 0, 0, 0
    if nanos is None or attempt["cost_source"] not in ("known", "estimated"):
        return 0, 0, 1
    nanos = max(nanos, 0)
    return (nanos, 0, 0) if attempt["cost_source"] == "known" else (0, nanos, 0)


def _ms(from_us: int, to_us: int) -> int:
    """Return milliseconds, rounded up so that what took time is never 0; clocks that went back make it 0."""
    return max(-(-(to_us - from_us) // 1_000), 0)
