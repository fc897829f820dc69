"""Who asks, as a token's claims say it: what a claim does not name is not allowed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from math import inf
from typing import Final, Literal

from edge.errors import Forbidden
from schemas.envelope import DEFAULT_TENANT

Scope = Literal["subscribe", "publish", "cancel", "operate"]
SCOPES: Final[tuple[Scope, ...]] = ("subscribe", "publish", "cancel", "operate")
"""``publish`` includes ``cancel``: whoever writes a stream may ask that it be stopped."""
SHOWN_CHARS_MAX: Final = 256
"""Of a subject: as many as a token's may have that needs no escapes."""


class Names:
    """Names that are allowed: whole ones, beginnings (``build-*``), or all (``*``)."""

    __slots__ = ("_exact", "_prefixes")

    def __init__(self, patterns: tuple[str, ...] = ()) -> None:
        self._exact = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
        self._prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))

    def __contains__(self, name: object) -> bool:
        return name in self._exact or (isinstance(name, str) and name.startswith(self._prefixes))

    @property
    def all(self) -> bool:
        """Whether there is no name that is not allowed."""
        return "" in self._prefixes

    @property
    def only(self) -> str:
        """The one name that is allowed; empty if there are several, or none."""
        return next(iter(self._exact)) if len(self._exact) == 1 and not self._prefixes else ""


@dataclass(frozen=True, slots=True)
class Identity:
    """What one token allows, and until when. It never holds the token itself."""

    tenants: Names = field(default_factory=Names)
    streams: Names = field(default_factory=Names)
    kinds: Names = field(default_factory=Names)
    scopes: frozenset[str] = frozenset()
    subject: str = ""
    token_id: str = ""
    issued_s: float = 0.0
    """Seconds since 1970; 0 = not said."""
    expires_s: float = inf
    """Seconds since 1970 when it ends, as it says itself."""
    leeway_s: float = 0.0
    """How much longer it is good, since clocks differ."""

    @property
    def good_until_s(self) -> float:
        """Seconds since 1970 from which on it is worth nothing."""
        return self.expires_s + self.leeway_s

    @property
    def expires_in_ms(self) -> int:
        """How long until it ends, as it says itself: by then its client has another. 0 if it did."""
        return max(int((self.expires_s - time.time()) * 1_000), 0)

    @property
    def shown(self) -> str:
        """Whose token it is, as people are shown it: on one line, and nothing that steers a terminal."""
        if self.subject.isprintable():
            return self.subject
        return "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode() for char in self.subject
        )[:SHOWN_CHARS_MAX]

    def may_subscribe(self, tenant: str, stream_id: str, kind: str) -> Forbidden | None:
        """Say why a stream may not be read, if so; an empty kind is unknown, and judged later."""
        return self._judged(("subscribe",), "read", tenant, stream_id, kind)

    def may_publish(self, tenant: str, stream_id: str, kind: str) -> Forbidden | None:
        """Say why events of a kind may not be published to a stream, if so."""
        return self._judged(("publish",), "publish to", tenant, stream_id, kind)

    def may_cancel(self, tenant: str, stream_id: str, kind: str) -> Forbidden | None:
        """Say why a stream may not be asked to stop, if so."""
        return self._judged(("cancel", "publish"), "cancel", tenant, stream_id, kind)

    def may_see(self, tenant: str, stream_id: str, kind: str) -> Forbidden | None:
        """Say why somebody may not know how a stream stands, if so: who reads it may, and who writes it."""
        return self._judged(("subscribe", "publish"), "see", tenant, stream_id, kind)

    def may_operate(self) -> Forbidden | None:
        """Say why metrics and console may not be had, if so."""
        if "operate" in self.scopes:
            return None
        return _forbidden("this token may not see how the edge does", "scope", "operate")

    def may_publish_at_all(self) -> Forbidden | None:
        """Say why somebody may publish to no stream whatever, if so."""
        if "publish" in self.scopes:
            return None
        return _forbidden("this token may not publish to any stream", "scope", "publish")

    def may_ask(self, tenant: str | None = None) -> Forbidden | None:
        """Say why somebody may not ask language models, or not for a tenant, if so; None = for any.

        By the claims alone: a name that breaks the contract is one that none covers, and is not repeated.
        """
        what = "this token may not ask language models"
        if "publish" not in self.scopes:
            return _forbidden(what, "scope", "publish")
        if tenant is not None and tenant not in self.tenants:
            return _forbidden(f"{what} for this tenant", "tenants", "it")
        return None

    def may_list(self) -> Forbidden | None:
        """Say why somebody may not ask which streams there are, if so; they are shown those they may read."""
        if "subscribe" in self.scopes:
            return None
        return _forbidden("this token may not list streams", "scope", "subscribe")

    def lists(self, tenant: str, stream_id: str, kind: str) -> bool:
        """Whether a stream is shown to somebody who may list: said for each of many, so in few words."""
        return tenant in self.tenants and stream_id in self.streams and kind in self.kinds

    def _judged(
        self, scopes: tuple[Scope, ...], verb: str, tenant: str, stream_id: str, kind: str
    ) -> Forbidden | None:
        """By the names of the request alone, so that nothing is told of what exists; the kind last."""
        what = f"this token may not {verb} {tenant}/{stream_id}"
        if self.scopes.isdisjoint(scopes):
            return _forbidden(what, "scope", scopes[0])
        if tenant not in self.tenants:
            return _forbidden(what, "tenants", tenant)
        if stream_id not in self.streams:
            return _forbidden(what, "streams", stream_id)
        if kind and kind not in self.kinds:
            return _forbidden(what, "kinds", "its kind")
        return None


def _forbidden(detail: str, claim: str, needed: str) -> Forbidden:
    remedy = f"Ask whoever issues tokens for one whose claim {claim!r} holds {needed}."
    if (claim, needed) == ("tenants", DEFAULT_TENANT):
        remedy += f" A request that names no tenant is for {DEFAULT_TENANT!r}: name yours (`tenant`)."
    return Forbidden(detail, remedy=remedy)


_ALL: Final = Names(("*",))
ANYBODY: Final = Identity(_ALL, _ALL, _ALL, frozenset(SCOPES))
"""Who asks an edge without keys: it answers this machine alone, or something in front keeps strangers out."""
