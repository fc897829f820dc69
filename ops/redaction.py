"""What is shown to others: escaped where a stranger wrote it, and without what looks like a secret."""

from __future__ import annotations

from schemas.redaction import redacted


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
