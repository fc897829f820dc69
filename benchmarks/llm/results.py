"""One line of what was measured: who, at what, with which guarantee, and the figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Answered:
    """One contender at one work; a figure that was not measured is None, and ``note`` says why."""

    name: str
    work: str
    guarantee: str
    """What a client may rely on when it has a token."""
    verified: bool
    """Each client was given each token of its answer, once, in order, and the end: all were read."""
    figures: Mapping[str, object] = field(default_factory=dict)
    note: str = ""

    def row(self) -> dict[str, object]:
        """Return the fields, for JSON or a table."""
        base: dict[str, object] = {"name": self.name, "work": self.work, "guarantee": self.guarantee}
        return base | dict(self.figures) | {"verified": self.verified, "note": self.note}


def not_had(name: str, work: str, guarantee: str, error: BaseException) -> Answered:
    """Return the line of a contender that cannot be had, or that broke."""
    said = getattr(error, "stderr", None) or error
    return Answered(name, work, guarantee, verified=False, note=f"{type(error).__name__}: {said}"[-300:])
