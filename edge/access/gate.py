"""Finds out who asks, whatever the transport: a request's headers, or metadata, in; an identity out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from edge.access.identity import ANYBODY
from edge.access.jwks import jwks_from
from edge.access.keyring import KeyRing
from edge.access.origins import Origins
from edge.access.revocations import Revocations
from edge.access.tokens import Verifier
from edge.errors import Forbidden, KeysUnavailable, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edge.access.identity import Identity
    from edge.access.options import AccessOptions
    from edge.metrics import EdgeMetrics

QUERY_NAME: Final = "access_token"


class Gate:
    """Of one edge process. Without keys it lets everybody in as ``ANYBODY``."""

    def __init__(
        self, options: AccessOptions, metrics: EdgeMetrics, *, cors_origins: Iterable[str] = ()
    ) -> None:
        """Read the keys; raises KeysRefused."""
        self.options = options
        self.open = not options.configured
        self.origins = Origins(cors_origins)
        self.revocations = Revocations(options.revocations_max)
        self.ring: KeyRing | None = None
        self._metrics = metrics
        if not self.open:
            self.ring = KeyRing(options, jwks_from(options.jwks_url) if options.jwks_url else None)
            self._verifier = Verifier(self.ring, options)

    def start(self) -> None:
        """Keep the keys fresh."""
        if self.ring is not None:
            self.ring.start()

    async def stop(self) -> None:
        """Let them be."""
        if self.ring is not None:
            await self.ring.stop()

    async def identify(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        query: Mapping[str, Sequence[str]] | None = None,
        *,
        method: str = "GET",
    ) -> Identity:
        """Say who asks: by ``authorization``, else by cookie or query, as far as they are switched on.

        ``headers`` have names in small letters: ASGI's, or a call's metadata.

        Raises:
            Unauthenticated: there is no token, or it is worth nothing.
            Forbidden: a cookie came with a request of another site's page.
            KeysUnavailable: it cannot be said yet.
        """
        if self.open:
            return ANYBODY
        try:
            return await self._identity(self._token(headers, query or {}, method))
        except (Unauthenticated, Forbidden) as error:
            self.denied(error)
            raise

    async def identify_token(self, token: str) -> Identity:
        """Say who a token is of, that came within a connection. Raises as ``identify``."""
        if self.open:
            return ANYBODY
        try:
            return await self._identity(token)
        except Unauthenticated as error:
            self.denied(error)
            raise

    def check_still(self, identity: Identity) -> None:
        """Raise Unauthenticated if a token has ended or was revoked since: for calls that go on for long."""
        if identity.good_until_s <= time.time():
            raise Unauthenticated("token_expired", "the token has expired")
        self._check_not_revoked(identity)

    def denied(self, error: Unauthenticated | Forbidden) -> None:
        """Count one who was turned away."""
        self._metrics.denied.labels(error.code).inc()

    @property
    def unready(self) -> list[tuple[str, str]]:
        """Why nobody, or somebody too many, would be let in: (cause, detail)."""
        causes = []
        if self.ring is not None and not self.ring.keys:
            causes.append(("keys", self.ring.problem))
        if self.revocations.overflown:
            causes.append(("revocations", self._overflown))
        return causes

    @property
    def _overflown(self) -> str:
        return f"there are more than {self.options.revocations_max} revocations"

    @property
    def keys(self) -> int:
        """How many keys there are."""
        return len(self.ring.keys) if self.ring is not None else 0

    @property
    def keys_stale(self) -> bool:
        """Whether the issuer's keys are not of now."""
        return self.ring is not None and bool(self.ring.problem)

    async def _identity(self, token: str) -> Identity:
        if not self.revocations.complete:
            raise KeysUnavailable("it has not been read yet which tokens were revoked")
        if self.revocations.overflown:
            raise KeysUnavailable(self._overflown)
        identity = await self._verifier.verify(token)
        self._check_not_revoked(identity)
        return identity

    def _check_not_revoked(self, identity: Identity) -> None:
        if self.revocations.holds(identity):
            raise Unauthenticated("token_revoked", "the token was revoked")

    def _token(
        self, headers: Iterable[tuple[bytes, bytes]], query: Mapping[str, Sequence[str]], method: str
    ) -> str:
        found: dict[bytes, bytes] = {}
        for name, value in headers:
            if name == b"authorization" and name in found:
                raise Unauthenticated("token_refused", "the request has two Authorization headers")
            found[name] = b"; ".join((found[name], value)) if name == b"cookie" and name in found else value
        if (authorization := found.get(b"authorization")) is not None:
            scheme, _, token = authorization.decode("latin-1").partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                raise Unauthenticated(
                    "token_refused", "the header Authorization is not of the form: Bearer TOKEN"
                )
            return token.strip()
        if self.options.cookie and (token := _cookie(found.get(b"cookie", b""), self.options.cookie)):
            if not self.origins.admits_cookie(method, found):
                raise Forbidden(
                    "a cookie is not taken from a page of another site, or of one that is not known",
                    remedy="Add the page's origin to SLUICEGATE_EDGE__CORS_ORIGINS, or send the token in the "
                    "header Authorization.",
                )
            return token
        if self.options.query_token and query.get(QUERY_NAME):
            return query[QUERY_NAME][0]
        raise Unauthenticated(
            "no_token", "this edge answers nobody who brings no token", remedy=self._how_to_bring_one
        )

    @property
    def _how_to_bring_one(self) -> str:
        ways = ["the header Authorization: Bearer TOKEN"]
        if self.options.cookie:
            ways.append(f"the cookie {self.options.cookie}")
        if self.options.query_token:
            ways.append(f"the query {QUERY_NAME}=TOKEN")
        return f"Send a token in {', or '.join(ways)}."


def _cookie(header: bytes, name: str) -> str:
    """The value of a cookie; the parser of the standard library drops all after one that it does not like."""
    for part in header.decode("latin-1").split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value.strip('"')
    return ""
