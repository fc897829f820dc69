"""Kinds of the scenarios, as a user's own: they come within seconds to what takes built-in ones hours."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from schemas.kinds import LOG, BackpressurePolicy, ReplayPolicy
from schemas.topics import MIB

if TYPE_CHECKING:
    from schemas.kinds import Kind


def like_log(name: str, **policies: Any) -> Kind:
    return replace(LOG, name=name, doc=f"As log, but {name}.", **policies)


KINDS = (
    like_log("short-lived", connection=replace(LOG.connection, connection_life_ms_max=2_500, drain_ms=500)),
    like_log(
        "ephemeral", replay=ReplayPolicy(resumable=False, history_ms=0, history_events=0, history_bytes=0)
    ),
    like_log("drop-old", backpressure=BackpressurePolicy("drop_old", 1_000, MIB, 1.0, 0, "drop_old")),
    like_log("drop-new", backpressure=BackpressurePolicy("drop_new", 1_000, MIB, 1.0, 0, "drop_new")),
    like_log("terminate", backpressure=BackpressurePolicy("terminate", 1_000, MIB, 1.0, 0, "terminate")),
    like_log(
        "slow-producer",
        backpressure=BackpressurePolicy("slow_producer", 1_000, MIB, 1.0, 60_000, "drop_old"),
    ),
)


def register(*_: object) -> None:
    """No agent."""
