"""Tokens that were taken back before they expired, as the topic of revocations tells them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Literal

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.access.identity import Identity

log = structlog.get_logger(__name__)
_REMEDY = (
    "Raise SLUICEGATE_ACCESS__REVOCATIONS_MAX, and give revocations an --until; then start the edge again."
)


@dataclass(frozen=True, slots=True)
class Revocation:
    """One token (``jti``), or all that a subject was given up to a time (``sub``)."""

    what: Literal["jti", "sub"]
    name: str
    issued_until_s: float
    """Of a subject: tokens issued later are good again."""
    until_s: float
    """When it may be forgotten, as whatever it is about has expired; 0 = never."""


def revocation_of(fields: Mapping[str, Any]) -> Revocation | None:
    """Make one of a ``sluicegate.Revocation`` record; None for one that this version does not know."""
    if fields["what"] not in ("jti", "sub"):
        return None
    return Revocation(
        fields["what"], fields["name"], fields["issued_until_us"] / 1e6, fields["until_us"] / 1e6
    )


def unreadable(key: bytes) -> Revocation | None:
    """Make one of a record of which only its key can be read: it holds for ever, for all there is."""
    what, _, name = key.decode("utf-8", "replace").partition(":")
    if what not in ("jti", "sub"):
        return None
    return Revocation("jti" if what == "jti" else "sub", name, inf, 0.0)


class Revocations:
    """All that hold now."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._entries: dict[bytes, Revocation] = {}
        self.overflown = False
        """One found no room: from then on nobody is let in, for it could be theirs."""
        self.complete = False
        """All that stood in the topic was read: before, nobody can be let in."""

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: bytes, revocation: Revocation | None) -> None:
        """Take one, or forget one (None)."""
        if revocation is None:
            self._entries.pop(key, None)
            return
        if key not in self._entries and len(self._entries) >= self._entries_max:
            self._forget_ended()
            if len(self._entries) >= self._entries_max:
                log.error("too_many_revocations", held=len(self._entries), remedy=_REMEDY)
                self.overflown = True
                return
        self._entries[key] = revocation

    def holds(self, identity: Identity) -> bool:
        """Whether an identity's token was taken back."""
        if not self._entries:
            return False
        one = self._entries.get(b"jti:" + identity.token_id.encode()) if identity.token_id else None
        if one is not None and not _is_over(one):
            return True
        every = self._entries.get(b"sub:" + identity.subject.encode()) if identity.subject else None
        # ``iat`` counts whole seconds: one of the very second is taken to be before.
        return every is not None and not _is_over(every) and identity.issued_s <= every.issued_until_s

    def _forget_ended(self) -> None:
        for key in [key for key, held in self._entries.items() if _is_over(held)]:
            del self._entries[key]


def _is_over(held: Revocation) -> bool:
    return 0 < held.until_s < time.time()
