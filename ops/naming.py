"""Names as people type them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from schemas.envelope import DEFAULT_TENANT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

YOURS: Final = "SLUICEGATE_PIPELINES adds those of a folder of yours"
"""What is to be known by who misses a role."""
_NO_ROLES: Final = ("llm", "edge")
"""Processes with a command of their own, which people look for among roles."""


def stream_named(text: str, tenant: str = DEFAULT_TENANT) -> tuple[str, str]:
    """Return tenant and id of a stream that was named as TENANT/STREAM, or as STREAM of ``tenant``."""
    before, slash, after = text.partition("/")
    return (before, after) if slash else (tenant, text)


def instead_of(unknown: Collection[str], roles: Iterable[str]) -> str:
    """Say what may be named in the place of roles that there are not."""
    named = [name for name in _NO_ROLES if name in unknown]
    own = [f"`sluicegate {name}` is a process of its own, and no role" for name in named]
    return "; ".join([*own, f"name any of {', '.join(roles)}", YOURS])
