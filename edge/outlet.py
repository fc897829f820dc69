"""What a stream's delivery asks of the connection that it writes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from edge.access.identity import Identity
    from edge.connection import ConnectionLimits, Leaving
    from edge.delivery import Delivery
    from edge.errors import Forbidden


class Outlet(Protocol):
    """The connection that a delivery writes to."""

    @property
    def paused(self) -> bool:
        """Whether it takes nothing now; ``advance`` of its deliveries is to be called when it does again."""
        ...

    @property
    def stalled(self) -> bool:
        """Whether it took nothing for so long that nothing more is held for it than what was written."""
        ...

    @property
    def write(self) -> Callable[[bytes], None]:
        """Write; never waits."""
        ...

    @property
    def transport_name(self) -> str:
        """How it is written to."""
        ...

    @property
    def identity(self) -> Identity:
        """Whose it is."""
        ...

    @property
    def turn(self) -> asyncio.Lock | None:
        """Held while a span of the past is read and not written yet: of all its deliveries, one at a time."""
        ...

    def had_turn(self, delivery: Delivery) -> None:
        """A delivery was written by itself: after a pause, others of the connection go first."""
        ...

    def send_away(self, reason: Leaving) -> None:
        """Have the client come back with its cursor."""
        ...

    def abort(self, reason: str) -> None:
        """Close now; its client resumes from its cursor."""
        ...

    def let_go(self, delivery: Delivery) -> None:
        """Have the client come back for a stream that it was too slow for; if paused, once it is not."""
        ...

    def delivered_end(self, delivery: Delivery) -> None:
        """All of a stream was written."""
        ...

    def refuse(self, delivery: Delivery, denied: Forbidden) -> None:
        """Stop a delivery, and say for good that its client may not have the stream."""
        ...

    def keep_to(self, limits: ConnectionLimits, since_s: float) -> None:
        """Keep to what the kind of a stream says; ``since_s``: when it began to follow it."""
        ...
