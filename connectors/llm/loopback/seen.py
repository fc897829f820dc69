"""What the loopback provider was asked and what became of it: for tests of cancels, retries and prompts."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

CALLS_MAX: Final = 2_000
BODY_CHARACTERS_MAX: Final = 16_384  # with CALLS_MAX: 32 MiB at most
_SECRET: Final = ("authorization", "key", "token", "cookie", "secret")


@dataclass(slots=True)
class Seen:
    """One call."""

    number: int
    """From 1, over all calls."""
    shape: str
    path: str
    model: str
    headers: Mapping[str, str] = field(repr=False)
    """What may be a secret is masked."""
    body: str = field(repr=False)
    """The first of it."""
    began_us: int
    """Microseconds since 1970, as all times here; 0 = not yet."""
    status: int = 0
    events: int = 0
    """How many frames the answer has."""
    sent: int = 0
    first_content_us: int = 0
    done_us: int = 0
    outcome: str = "playing"
    """playing; ended (its body is whole, as far as it was to be); cut, closed (by a fault); client_closed
    (before the end); stopped (the provider was)."""


class Calls:
    """The latest calls, and how many there were."""

    def __init__(self) -> None:
        self.total = 0
        self.latest: deque[Seen] = deque(maxlen=CALLS_MAX)

    def begin(self, shape: str, path: str, headers: Mapping[str, str], body: bytes) -> Seen:
        """Keep a call that came."""
        self.total += 1
        shown = body[:BODY_CHARACTERS_MAX].decode("utf-8", "replace")
        masked = {name: "***" if _is_secret(name) else value for name, value in headers.items()}
        seen = Seen(self.total, shape, _without_key(path), "", masked, shown, time.time_ns() // 1_000)
        self.latest.append(seen)
        return seen

    def clear(self) -> None:
        """Forget all; numbers go on."""
        self.latest.clear()

    def told(self, after: int = 0) -> dict[str, Any]:
        """Give them as JSON has them: those with a number above ``after``."""
        calls = [seen for seen in list(self.latest) if seen.number > after]
        playing = sum(seen.outcome == "playing" for seen in calls)
        return {"total": self.total, "playing": playing, "calls": [asdict(seen) for seen in calls]}


def _is_secret(name: str) -> bool:
    return any(word in name for word in _SECRET)


def _without_key(path: str) -> str:
    """Mask a key in the query, where Gemini takes one."""
    head, mark, query = path.partition("?")
    parts = ["key=***" if part.startswith("key=") else part for part in query.split("&")]
    return head + mark + "&".join(parts)
