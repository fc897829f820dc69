"""Standard error as far as it can be written: a closed terminal or a full disk ends no work."""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from typing import TextIO, cast


class StandardError(io.TextIOBase):
    """Whatever is standard error now (nothing, where it was closed); what cannot be written is dropped.

    What we say there is for a person or a log. Whoever says it is doing something that matters more:
    stopping what was started when a terminal was closed, or a unit of work while a log's disk is full.
    """

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has an attribute here
        """Encoding of the real one."""
        return getattr(_real(), "encoding", "utf-8")

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        real = _real()
        return bool(real) and real.isatty()

    def fileno(self) -> int:
        """Descriptor of the real one."""
        return _real().fileno()

    def write(self, text: str) -> int:
        """Write, or drop."""
        with suppress(OSError, AttributeError):
            _real().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that can be done."""
        with suppress(OSError, AttributeError):
            _real().flush()


def _real() -> TextIO:
    """Give it as it is: while a bar is shown rich has what is written to it go to its console, so to us."""
    return cast("TextIO", getattr(sys.stderr, "rich_proxied_file", sys.stderr))
