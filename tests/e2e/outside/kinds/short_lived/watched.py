"""A connection lives for some seconds."""

from __future__ import annotations

from tests.e2e.outside.kinds import register, watched

__all__ = ["KINDS", "register"]
KINDS = (watched(connection_life_ms_max=3_000, drain_ms=500),)
