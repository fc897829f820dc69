"""What a usage event tells of money, for all who add it up or show it (`CONTRACT.md`, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

UNKNOWN: Final = "unknown"
"""A ``provenance``: nobody counted."""
ESTIMATED: Final = "estimated"
"""A ``provenance``: tokens, cost, or both are an estimate."""


def cost_of_usage(usage: Mapping[str, Any]) -> int | None:
    """Return the cost of a usage event by its payload, 1e-9 USD; None = unknown, which is not 0.

    Where nobody counted what was taken, nobody knows what it cost, whatever stands there.
    """
    return None if usage.get("provenance") == UNKNOWN else usage.get("cost_nanos")


def sorts_of_cost(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the known and the estimated cost of a usage event, 1e-9 USD, and 1 if it is not known at all."""
    cost = cost_of_usage(usage)
    if cost is None:
        return 0, 0, 1
    return (0, cost, 0) if usage["provenance"] == ESTIMATED else (cost, 0, 0)
