"""Fixtures of the integration tests."""

from __future__ import annotations

from tests.support.edge_fixtures import make_edge, twin

__all__ = ["make_edge", "twin"]
