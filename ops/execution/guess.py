"""What a line of text says by its looks: its level and how far the command has come.

Both are guesses, so both are conservative: a line is ``info`` and no progress unless it is plain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Level = Literal["trace", "debug", "info", "warning", "error", "critical"]

_LEVELS: Final[dict[str, Level]] = {
    "trace": "trace",
    "debug": "debug",
    "info": "info",
    "notice": "info",
    "note": "info",
    "warn": "warning",
    "warning": "warning",
    "err": "error",
    "error": "error",
    "failure": "error",
    "fatal": "critical",
    "fatal error": "error",  # a compiler's: this file failed, not the machine
    "critical": "critical",
    "crit": "critical",
    "panic": "critical",
    "emerg": "critical",
}

_WORD = (
    "trace|debug|info|notice|note|warn(?:ing)?|err(?:or)?|failure|fatal(?: error)?|crit(?:ical)?|panic|emerg"
)
# A date, a time, brackets, a process name: what loggers put before the level.
_PREFIX = r"(?:[\d\-:.,TZ+/ \[\]()|]+)?"
_PATTERNS: Final = (
    # 2026-01-02 10:00:00,123 [ERROR] …    ERROR: …    warning: …
    re.compile(rf"^\s*{_PREFIX}[\[(<]?(?P<level>{_WORD})[\])>]?(?::|\]|\)|\||\s-\s)", re.IGNORECASE),
    # npm ERR! …    ERROR something (upper case needs no colon)
    re.compile(rf"^\s*{_PREFIX}(?:npm )?(?P<level>{_WORD.upper()})(?:!|\s)"),
    # level=error    "level":"error"    severity: warning
    re.compile(rf"\b(?:level|lvl|severity)[\"']?\s*[=:]\s*[\"']?(?P<level>{_WORD})\b", re.IGNORECASE),
    # main.c:12:3: error: …    setup.py:3: warning: …    ld: fatal error: …
    re.compile(rf"^[^\s:]+(?::\d+)*:\s(?P<level>{_WORD}):\s", re.IGNORECASE),
)
_TRACEBACK = "Traceback (most recent call last):"
_EXCEPTION = re.compile(r"^(?:\w+\.)*[A-Z]\w*(?:Error|Exception)(?::|$)")
# Cheaper than the patterns: most lines hold none of these, and a line is read at pipe speed.
_HINT = re.compile(
    r"trace|debug|info|note|notice|warn|err|fail|fatal|crit|panic|emerg|exception", re.IGNORECASE
)


def level_of(text: str) -> Level:
    """The level that a line names where a logger or a compiler would put it; ``info`` if none does."""
    head = text[:200]  # a level stands at the front; the rest of a long line is not searched
    if not _HINT.search(head):
        return "info"
    for pattern in _PATTERNS:
        found = pattern.search(head)
        if found:
            return _LEVELS[found["level"].lower()]
    if head.startswith(_TRACEBACK) or _EXCEPTION.match(head):
        return "error"
    return "info"


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` in ``unit``: percent as ``%`` of 100, counts with an empty unit."""

    done: int
    total: int
    unit: str


_COUNT = r"(?P<done>\d{1,9})\s?/\s?(?P<total>\d{1,9})"
_PERCENT = r"(?P<percent>\d{1,3})(?:\.\d+)?\s?%"
_IN_LINE: Final = (
    re.compile(rf"[\[(]\s*{_COUNT}\s*[\])]"),  # [12/340]  ( 2/3)
    re.compile(rf"^\s*(?:step |stage |test |file )?{_COUNT}(?=[\s:]|$)", re.IGNORECASE),  # Step 3/12 : RUN …
    re.compile(rf"[\[(]\s*{_PERCENT}\s*[\])]"),  # [ 45%]
    re.compile(rf"^\s*{_PERCENT}(?=[\s:|]|$)"),  # 45% |████
)
_IN_BAR: Final = (
    re.compile(rf"(?<![\d/.]){_COUNT}(?![\d/.])"),
    re.compile(rf"(?<![\d.]){_PERCENT}"),
)


def progress_of(text: str, *, overwritten: bool) -> Progress | None:
    """How far the command has come, if this line plainly says so.

    A line that was ``overwritten`` by a carriage return is a progress bar, so a count or a percentage
    counts anywhere in it; in any other line only where build tools put it.
    """
    head = text[:400]
    if "/" not in head and "%" not in head:
        return None
    for pattern in _IN_BAR if overwritten else _IN_LINE:
        found = pattern.search(head)
        progress = _as_progress(found) if found else None
        if progress is not None:
            return progress
    return None


def _as_progress(found: re.Match[str]) -> Progress | None:
    groups = found.groupdict()
    if "percent" in groups:
        percent = int(groups["percent"])
        return Progress(percent, 100, "%") if percent <= 100 else None
    done, total = int(groups["done"]), int(groups["total"])
    return Progress(done, total, "") if done <= total and total > 1 else None
