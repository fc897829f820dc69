"""How tokens are checked, and where they may stand in a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

AUDIENCE: Final = "sluicegate"


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """Without keys nobody is asked who they are, and the edge binds loopback only."""

    keys_file: Path | None = None
    """Public keys in PEM, one or several, or as a JWKS. Read again when it changes."""
    jwks_url: str = ""
    secret_file: Path | None = None
    """The secret of HS256, which no other source of keys can bring in."""
    issuer: str = ""
    """What ``iss`` must be; empty = not looked at, which a JWKS of others does not allow."""
    audience: str = AUDIENCE
    """What ``aud`` must hold: a token that was made for another service is worth nothing here."""
    leeway_ms: int = 5_000
    """How far the clocks of issuer and edge may differ."""
    keys_refresh_ms: int = 300_000
    """How often the JWKS is fetched anew: a key that its issuer has withdrawn holds no longer than that."""
    keys_retry_ms: int = 10_000
    """Shortest time between two fetches, however many tokens name keys that are not known."""
    file_look_ms: int = 5_000
    """How often the files are looked at for a change."""

    cookie: str = ""
    """Name of the cookie that may hold a token; empty = cookies are not read."""
    query_token: bool = False
    """Whether ``?access_token=`` is read: addresses end in the logs of whatever stands in between."""

    expiry_warning_ms: int = 60_000
    """How long before its token ends a connection is told; up to half as much earlier, to spread them."""
    revocations_max: int = 100_000
    """Revocations held, about 300 bytes each; beyond them nobody new is let in, for theirs may be missing."""

    @property
    def configured(self) -> bool:
        """Whether there is anything to check tokens with."""
        return bool(self.keys_file or self.jwks_url or self.secret_file)
