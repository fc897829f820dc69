"""Kinds of a user's own, as an edge loads them: they keep less for who comes later than a ring."""

from __future__ import annotations

from dataclasses import replace

from schemas.kinds import LOG, ReplayPolicy
from schemas.topics import MIB

_FEW = 20
KINDS = (
    replace(
        LOG,
        name="glimpse",
        doc="Lines for who is there: nothing is kept.",
        replay=ReplayPolicy(resumable=False, history_ms=0, history_events=0, history_bytes=0),
    ),
    replace(
        LOG,
        name="few",
        doc="The latest twenty lines are kept.",
        replay=replace(LOG.replay, history_events=_FEW),
        backpressure=replace(LOG.backpressure, behind_events_max=_FEW),
    ),
    replace(LOG, name="light", doc="A mebibyte is kept.", replay=replace(LOG.replay, history_bytes=MIB)),
    replace(LOG, name="recent", doc="An hour is kept.", replay=replace(LOG.replay, history_ms=3_600_000)),
)


def register(*_: object) -> None:
    """Have no agents."""
