"""What looks like a secret, masked in what is shown or logged."""

from __future__ import annotations

import re
from typing import Final

_MASK: Final = "***"
_SECRETS: Final = (
    # password=…  "api_key": "…"  Authorization: Bearer …; but not max_tokens=…, which counts them
    re.compile(
        r"(?i)(?P<name>(?:pass(?:word|wd)?|secret|token(?!s\b)|api[_-]?key|authorization|credential|cookie)\w*"
        r"[\"']?\s*[=:]\s*[\"']?(?:bearer |basic )?)(?P<secret>[^\s\"',;&}]{3,})"
    ),
    # --password hunter2, of a command line
    re.compile(
        r"(?i)(?P<name>(?<!\S)--?[\w-]*(?:pass(?:word|wd)?|secret|token|api[_-]?key|credential)\w*\s+)"
        r"(?P<secret>[^\s-]\S{2,})"
    ),
    # postgresql://user:password@host
    re.compile(r"(?P<name>://[^\s:/@]*:)(?P<secret>[^\s@/]+)(?=@)"),
    # keys that providers mark: sk-…, ghp_…, AKIA…, and JSON web tokens
    re.compile(
        r"(?P<name>\b)(?P<secret>(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|"
        r"AKIA[A-Z0-9]{12,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
    ),
)


def redacted(text: str) -> str:
    """The text with what looks like a secret masked; a guess, so do not rely on it where it matters."""
    for pattern in _SECRETS:
        text = pattern.sub(lambda found: found["name"] + _MASK, text)
    return text
