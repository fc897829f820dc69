"""What an edge refuses or cannot do.

EdgeError
├── NetworkRefused        an address that strangers reach, and no keys are configured
├── OriginsRefused        every site's pages are let in, and nothing tells them apart
├── PortInUse             something else listens there
├── FilesRefused          the process may open no file for a client
├── KindsRefused          a kind's policies cannot be kept
├── RequestError          the request is wrong (status, title, field, index)
│   ├── Unauthenticated   401: no token, or one that is worth nothing here
│   ├── Forbidden         403: a token whose claims do not allow it
│   └── KeysUnavailable   503: it cannot be said now what a token is worth
├── KeysRefused           keys, or a secret, that no token may be checked with
└── HistoryUnavailable    Kafka cannot be read right now
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from schemas.errors import SluicegateError

if TYPE_CHECKING:
    from collections.abc import Mapping


TokenFault = Literal["no_token", "token_refused", "token_expired", "token_revoked"]


class EdgeError(SluicegateError):
    """Base of the edge's errors."""


class NetworkRefused(EdgeError):
    """Without keys to check tokens with, the edge serves this machine only."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"the edge does not bind {host} without keys: anybody who reaches it could read and write every "
            "stream",
            remedy="Say by which keys tokens are checked: SLUICEGATE_ACCESS__KEYS_FILE or "
            "SLUICEGATE_ACCESS__JWKS_URL (docs/access.md); or bind 127.0.0.1. Only where something in front "
            "keeps strangers out (a container whose port is published on loopback): "
            "SLUICEGATE_EDGE__ALLOW_NETWORK=true.",
        )


class OriginsRefused(EdgeError):
    """``*`` among the CORS origins where any page could act for whoever looks at it."""

    def __init__(self) -> None:
        super().__init__(
            "the edge does not let in the pages of all sites: without tokens, or with tokens in cookies, any "
            "page could read and write what whoever looks at it may",
            remedy="Name the sites in SLUICEGATE_EDGE__CORS_ORIGINS; or have tokens sent in the header alone "
            "(keys, and no SLUICEGATE_ACCESS__COOKIE).",
        )


class PortInUse(EdgeError):
    """The port is taken."""

    def __init__(self, host: str, port: int, problem: str, option: str = "port") -> None:
        """``option`` is the setting that says the port."""
        switch, variable = f"--{option.replace('_', '-')}", f"SLUICEGATE_EDGE__{option.upper()}"
        super().__init__(
            f"the edge cannot listen on {host}:{port}: {problem}",
            remedy=f"Stop what listens there, or choose another ({switch}, {variable}; 0 = any).",
        )


class FilesRefused(EdgeError):
    """The process may open so few files that there are none for clients."""

    remedy = (
        "Raise its hard limit of open files: 13,834 are enough for the 10,000 connections that it takes by "
        "default, 10,500 without gRPC (`ulimit -Hn`, LimitNOFILE=, a container's ulimits)."
    )

    def __init__(self, files: int, own: int) -> None:
        super().__init__(f"the edge may open {files} files, and needs {own} beside those of its clients")


class KindsRefused(EdgeError):
    """A kind whose policies are not all there, contradict each other, or ask too much of its topics."""

    remedy = "Correct the policies that it names (schemas/kinds.py)."


class RequestError(EdgeError):
    """A request that is answered with a problem document; nothing of it was done."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        remedy: str = "",
        extra: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail, remedy=remedy)
        self.status = status
        self.title = title
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})


class Unauthenticated(RequestError):
    """Who asks is not known: no token came, or one that is worth nothing here. It is never repeated."""

    def __init__(self, code: TokenFault, detail: str, *, remedy: str = "") -> None:
        # RFC 6750, section 3: a request that brought no token is told no error code.
        error = "" if code == "no_token" else ', error="invalid_token"'
        super().__init__(
            401,
            "Not authenticated",
            detail,
            remedy=remedy or "Get a new token from whoever issues them, and send the request again.",
            extra={"code": code},
            headers={"www-authenticate": f'Bearer realm="sluicegate"{error}'},
        )
        self.code = code


class Forbidden(RequestError):
    """The token is good, and its claims do not allow what is asked; nothing is said of what exists."""

    code = "forbidden"

    def __init__(self, detail: str, *, remedy: str) -> None:
        super().__init__(
            403,
            "Not allowed",
            detail,
            remedy=remedy,
            extra={"code": self.code},
            headers={"www-authenticate": 'Bearer realm="sluicegate", error="insufficient_scope"'},
        )


class KeysUnavailable(RequestError):
    """Keys, or revocations, have not been read yet: nobody is let in, and everybody may come again."""

    code = "keys_unavailable"

    def __init__(self, detail: str) -> None:
        super().__init__(
            503,
            "Tokens cannot be checked yet",
            detail,
            remedy="Send the same request again after Retry-After.",
            extra={"code": self.code},
            headers={"retry-after": "2"},
        )


class KeysRefused(EdgeError):
    """A file or an answer that holds no key which a token may be checked with; its content is not shown."""

    remedy = (
        "Give public keys in PEM or as a JWKS: RSA of 2048 bits or more, P-256, P-384, P-521 or Ed25519; or "
        "a secret of 32 bytes or more for HS256."
    )


class HistoryUnavailable(EdgeError):
    """Events that are no longer in memory cannot be read from Kafka now; the client waits meanwhile."""

    remedy = "Check that Kafka runs (`sluicegate status`); clients go on by themselves once it answers."
