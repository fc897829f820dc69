"""As long as a connection may live, the test does not last."""

from __future__ import annotations

from tests.e2e.outside.kinds import register, watched

__all__ = ["KINDS", "register"]
KINDS = (watched(),)
