"""Names as people type them."""

from __future__ import annotations

from schemas.envelope import DEFAULT_TENANT


def stream_named(text: str, tenant: str = DEFAULT_TENANT) -> tuple[str, str]:
    """Return tenant and id of a stream that was named as TENANT/STREAM, or as STREAM of ``tenant``."""
    before, slash, after = text.partition("/")
    return (before, after) if slash else (tenant, text)
