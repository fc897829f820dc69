"""What is shown to others: escaped where a stranger wrote it, and without what looks like a secret."""

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


def escaped(data: bytes, bytes_max: int) -> str:
    r"""The first bytes as text: UTF-8 where it is, ``\xNN`` where not, nothing that steers a terminal."""
    text = data[:bytes_max].decode("utf-8", "backslashreplace")
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return redacted(shown) + ("…" if len(data) > bytes_max else "")


def hex_dump(data: bytes) -> str:
    """The bytes as `hexdump -C` shows them: offset, sixteen bytes, their ASCII."""
    lines = []
    for start in range(0, len(data), 16):
        row = data[start : start + 16]
        ascii_row = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{start:08x}  {row[:8].hex(' '):<23}  {row[8:].hex(' '):<23}  |{ascii_row}|")
    return "\n".join(lines)
