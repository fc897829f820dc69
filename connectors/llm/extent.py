"""How much one answer may be: a provider that never ends must not fill topics until its time is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connectors.llm.deltas import Piece

if TYPE_CHECKING:
    from connectors.llm.deltas import Media

BODY_BYTES_MAX: Final = 256 * 1_048_576
"""As it comes, framing, pings and base64 included; a token's event is some 300 bytes at most."""
TEXT_CHARACTERS_MAX: Final = 8 * 1_048_576
"""Of all channels. The longest answers that models give are 128,000 tokens, some 500,000 characters."""
MEDIA_BYTES_MAX: Final = 64 * 1_048_576
CONTENTS_MAX: Final = 500_000
"""Pieces: of blocks that take turns each is an event of its own, which no gathering makes fewer."""


class Extent:
    """One answer's, so far; what it gives is what is wrong, empty while nothing is."""

    def __init__(self) -> None:
        self._body = self._text = self._media = self._contents = 0

    def read(self, size_bytes: int) -> str:
        """Count bytes of the body."""
        self._body += size_bytes
        return _more(BODY_BYTES_MAX, "bytes") if self._body > BODY_BYTES_MAX else ""

    def take(self, content: Piece | Media) -> str:
        """Count content."""
        self._contents += 1
        if self._contents > CONTENTS_MAX:
            return _more(CONTENTS_MAX, "pieces")
        if isinstance(content, Piece):
            self._text += len(content.text)
            return _more(TEXT_CHARACTERS_MAX, "characters") if self._text > TEXT_CHARACTERS_MAX else ""
        self._media += len(content.data)
        return _more(MEDIA_BYTES_MAX, "bytes of media") if self._media > MEDIA_BYTES_MAX else ""


def _more(most: int, what: str) -> str:
    return f"an answer of more than {most} {what}"
