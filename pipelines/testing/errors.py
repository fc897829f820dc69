"""What can go wrong while an agent is driven by a test."""

from __future__ import annotations

from schemas.errors import SluicegateError


class NotAtRest(SluicegateError):
    """The agent did not handle in time what it was fed."""

    remedy = (
        "An agent that waits for what may pass goes on by itself: let that pass, or give `run` longer. The "
        "log says what it raised."
    )

    def __init__(self, what: str, within_s: float) -> None:
        super().__init__(f"{what} after {within_s:g} s")
