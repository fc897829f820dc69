"""How fast providers answered lately, from attempts that were settled: what the policy `fastest` goes by."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from math import inf
from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from connectors.llm.ledger import Attempt

WINDOW_US: Final = 5 * 60 * 1_000_000  # as long as a provider's bad spell is worth to be remembered
ATTEMPTS_MAX: Final = 200  # of each model; a median of so many moves by less than a twentieth
MODELS_MAX: Final = 1_024
ANSWER_TOKENS: Final = 256  # a usual answer: what tokens/s is weighed by, against the time to the first
_NOT_ITS: Final = frozenset({"bad_request", "context_overflow", "content_refused", "gate", "invalid_answer"})
"""What was asked, or what we do with it, is why these failed."""


class _Seen(NamedTuple):
    ended_us: int
    first_content_ms: float
    """0 = it failed before any."""
    tokens_a_s: float
    """0 = too short to say."""
    good: bool


class Figures:
    """The latest attempts by provider and model; belongs to one loop."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], deque[_Seen]] = OrderedDict()

    def take(self, row: Attempt) -> None:
        """Take a row of the ledger; what is not settled is passed over."""
        if row.state not in ("completed", "failed") or row.upstream != "model" or row.error_class in _NOT_ITS:
            return  # one that was cancelled, or whose worker died, says nothing of the provider
        if not row.model_named:  # a client's word, of which there could be any number
            return
        first, last = row.first_content_us, row.last_content_us
        seconds, tokens = (last - first) / 1e6, row.output_tokens or 0
        seen = _Seen(
            row.ended_us,
            max(first - row.started_us, 1) / 1_000 if first else 0.0,
            tokens / seconds if first and seconds > 0.05 and tokens > 1 else 0.0,
            row.state == "completed",
        )
        key = (row.provider, row.model)
        if key not in self._seen and len(self._seen) >= MODELS_MAX:
            self._seen.popitem(last=False)
        self._seen.setdefault(key, deque(maxlen=ATTEMPTS_MAX)).append(seen)
        self._seen.move_to_end(key)

    def knows(self, provider: str, model: str) -> bool:
        """Say whether a model has answered, or is an operator's, and was asked of late."""
        return (provider, model) in self._seen

    def answer_ms(self, provider: str, model: str, now_us: int | None = None) -> float | None:
        """Give the time that a usual answer should take, in ms; None = not known of late, inf = all failed.

        The median time to the first content, and ANSWER_TOKENS at the median rate; over the share of
        attempts that were good, for each that was not has to be made again somewhere.
        """
        now = time.time_ns() // 1_000 if now_us is None else now_us
        late = [seen for seen in self._seen.get((provider, model), ()) if seen.ended_us > now - WINDOW_US]
        firsts = [seen.first_content_ms for seen in late if seen.first_content_ms]
        if not late:
            return None
        good = sum(seen.good for seen in late) / len(late)
        if not firsts or not good:
            return inf
        rates = [seen.tokens_a_s for seen in late if seen.tokens_a_s]
        answer_ms = ANSWER_TOKENS / median(rates) * 1_000 if rates else 0.0
        return (median(firsts) + answer_ms) / good
