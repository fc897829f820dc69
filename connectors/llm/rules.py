"""Rules of a gate: what they forbid, and where it stands in a text that is still coming."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, cast, get_args

from connectors.llm.deltas import Channel
from connectors.llm.errors import RouteRefused
from connectors.llm.patterns import BadPattern, Looks, Pattern, pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from connectors.llm.plan import RuleRow

RULES_MAX: Final = 64
HOLD_CHARACTERS_MAX: Final = 512
"""A match takes up to so many looks at up to so many characters."""
REWRITE_CHARACTERS_MAX: Final = 1_024
REASON_CHARACTERS_MAX: Final = 200
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Action = Literal["pass", "rewrite", "end"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done about text that matches."""

    name: str
    pattern: Pattern
    action: Action
    text: str
    """What stands in its place, or why the answer ends."""
    channels: frozenset[Channel] = frozenset(get_args(Channel))
    """What it is about, of all that passes the gate."""


@dataclass(frozen=True, slots=True)
class Match:
    """Where a rule matches: characters [start, end) of the block."""

    start: int
    end: int
    rule: Rule


def parse_rules(rows: Iterable[RuleRow]) -> tuple[Rule, ...]:
    """Make rules of (name, regular expression, action[, channels]). Raises RouteRefused, naming the rule."""
    rules: list[Rule] = []
    for name, expression, action, *channels in rows:
        if not _NAME.fullmatch(name):
            raise RouteRefused(
                f"gate: rule {name[:64]!r}: a name has 1 to 64 letters, digits and any of _ . -",
                remedy="Give it such a name.",
            )
        if any(rule.name == name for rule in rules):
            raise RouteRefused(f"gate: two rules are named {name}", remedy="Name them apart.")
        try:
            rules.append(Rule(name, pattern(expression), *_action(action), *map(_channels, channels)))
        except (BadPattern, ValueError) as error:
            raise RouteRefused(f"gate: rule {name}: {error}", remedy="Correct the rule.") from None
    if len(rules) > RULES_MAX:
        raise RouteRefused(
            f"gate: {len(rules)} rules, at most {RULES_MAX}", remedy="Join some with | between them."
        )
    return tuple(rules)


def _channels(names: Sequence[str]) -> frozenset[Channel]:
    if not names or not set(names) <= set(get_args(Channel)):
        raise ValueError(f"its channels are some of {', '.join(get_args(Channel))}")
    return frozenset(cast("Sequence[Channel]", names))


def _action(action: str) -> tuple[Action, str]:
    verb, colon, text = action.partition(":")
    if action == "pass":
        return "pass", ""
    if verb == "rewrite" and colon and len(text) <= REWRITE_CHARACTERS_MAX:
        return "rewrite", text
    if verb == "end" and text and len(text) <= REASON_CHARACTERS_MAX and text.isprintable():
        return "end", text
    raise ValueError(
        f"its action is pass, rewrite:TEXT (at most {REWRITE_CHARACTERS_MAX} characters) or "
        f"end:REASON (at most {REASON_CHARACTERS_MAX}), and not {action[:80]!r}"
    )


class Passage:
    """The text of one block of an answer, as far as rules may still need it.

    Places are counted from the block's begin. Kept are the characters held back, one before them, and what
    was released early of those that may yet turn out to begin a match: no more than the hold-back again.
    """

    __slots__ = ("_arrivals", "_base", "_hold", "_next", "_rules", "_text", "before", "end", "released")

    def __init__(self, rules: Sequence[Rule], hold: int, before: str = "") -> None:
        """``before`` is what was shown already of a text that this one goes on with."""
        self._rules = rules
        self._hold = hold
        self._text = before
        self._base = 0
        self._next = [0] * len(rules)
        self._arrivals: deque[tuple[int, float]] = deque()
        self.end = self.released = self.before = len(before)

    def add(self, text: str, now_s: float) -> None:
        """Take more of the block."""
        self._text += text
        self.end += len(text)
        self._arrivals.append((self.end, now_s))

    @property
    def held(self) -> int:
        """How many characters are held back."""
        return self.end - self.released

    @property
    def oldest_s(self) -> float | None:
        """When the first of what is held back came; None = nothing is."""
        while self._arrivals and self._arrivals[0][0] <= self.released:
            self._arrivals.popleft()
        return self._arrivals[0][1] if self._arrivals else None

    def waited(self, now_s: float, hold_s: float) -> int:
        """Up to where the text has been held back for so long."""
        return max((end for end, at_s in self._arrivals if at_s + hold_s <= now_s), default=self.released)

    def matches(self, upto: int, looks: Looks | None = None) -> list[Match]:
        """Find what begins before ``upto`` and was not told yet, in the order in which it begins.

        A place is settled once ``hold`` characters and one more stand behind it: then nothing that may still
        come changes what is found there, however the text was split. Asked sooner (time is up, or another
        block begins) it is judged by what is there, and again when there is more.

        Raises:
            TooManyLooks: by all rules together it takes too long.
        """
        looks = looks or Looks()
        found: list[Match] = []
        settled = min(upto, self.end - self._hold)
        base = self._base
        for number, rule in enumerate(self._rules):
            at = self._next[number]
            while span := rule.pattern.find(self._text, at - base, upto - base, self._hold, looks):
                at = span[1] + base
                found.append(Match(span[0] + base, at, rule))
            self._next[number] = max(at, settled)
        found = [match for match in found if match.end > self.before]  # what ends there is told already
        found.sort(key=lambda match: match.start)  # stable: of two at one place the rule that stands first
        return found

    def text(self, start: int, end: int | None = None) -> str:
        """Give characters [start, end) of the block, of those that are kept."""
        return self._text[max(start - self._base, 0) : None if end is None else max(end - self._base, 0)]

    def forget(self) -> None:
        """Let go of what no rule can need any more."""
        keep = max(min([self.released, *self._next]) - 1, self._base)
        self._text = self._text[keep - self._base :]
        self._base = keep
