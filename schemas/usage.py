"""What a usage event tells of money, for all who add it up or show it (`CONTRACT.md`, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

UNKNOWN: Final = "unknown"
"""A ``provenance``: nobody counted."""


def cost_of_usage(usage: Mapping[str, Any]) -> int | None:
    """Return the cost of a usage event by its payload, 1e-9 USD; None = unknown, which is not 0.

    Where nobody counted what was taken, nobody knows what it cost, whatever stands there.
    """
    return None if usage.get("provenance") == UNKNOWN else usage.get("cost_nanos")
