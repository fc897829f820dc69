"""The kind that outside clients follow, in folders as an edge is given kinds of a user's own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from schemas.kinds import LLM, BackpressurePolicy
from schemas.topics import MIB

if TYPE_CHECKING:
    from schemas.kinds import Kind


def watched(**connection: Any) -> Kind:
    """Its retry hint is the shortest of all kinds'; who is 4 MiB behind misses the oldest."""
    return replace(
        LLM,
        name="watched",
        doc="What outside clients follow.",
        connection=replace(LLM.connection, **connection),
        backpressure=BackpressurePolicy("drop_old", 100_000, 4 * MIB, 1.0, 0, "drop_old"),
    )


def register(*_: object) -> None:
    """No agent."""
