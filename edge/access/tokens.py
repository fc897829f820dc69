"""JSON Web Tokens: checked against the keys, and read into what their claims allow."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import jwt
from jwt.exceptions import InvalidJTIError, InvalidSubjectError

from edge.access.identity import SCOPES, Identity, Names
from edge.errors import Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edge.access.keyring import KeyRing
    from edge.access.keys import Key
    from edge.access.options import AccessOptions

TOKEN_CHARS_MAX: Final = 8_192
PATTERNS_MAX: Final = 100
"""Names that one claim may hold: they are gone through for each stream that is asked for."""
_PATTERN: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
TEXT_CHARS_MAX: Final = 256
_HALF: Final = re.compile(r"[\ud800-\udfff]")
"""Half of a character, as JSON may hold it (``\\ud800``): no bytes stand for it, and keys are bytes."""
# What PyJWT, and the JSON beneath it, may raise of a token that was made to break them.
_BROKEN: Final = (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError, RecursionError)
_WHY: Final[dict[type[Exception], str]] = {
    jwt.ImmatureSignatureError: "the token is not good yet (nbf, iat)",
    jwt.InvalidAudienceError: "the token is for another audience (aud)",
    jwt.InvalidIssuerError: "the token is of another issuer (iss)",
    jwt.MissingRequiredClaimError: "the token lacks a claim that it must have (exp, aud, iss)",
    jwt.InvalidIssuedAtError: "a time of the token is no number (iat)",
    InvalidSubjectError: "claim 'sub' must be text",
    InvalidJTIError: "claim 'jti' must be text",
    jwt.InvalidSignatureError: "the token is not signed by a key that is known here",
}


class Verifier:
    """Makes an identity of a token, or says what is wrong with it; neither holds or tells the token."""

    def __init__(self, ring: KeyRing, options: AccessOptions) -> None:
        self._ring = ring
        self._options = options

    async def verify(self, token: str) -> Identity:
        """Check a token.

        1. Its head names an algorithm and perhaps a key. 2. Keys are looked for that are *for* that
        algorithm. 3. The signature, ``exp``, ``nbf``, ``iat``, ``iss`` and ``aud`` are checked; if none of
        them signed it, step 2 again with the issuer's keys of now. 4. The claims are read.

        Raises:
            Unauthenticated: it is worth nothing here.
            KeysUnavailable: no key has been had yet.
        """
        kid, algorithm = _head(token)
        keys = await self._ring.find(kid, algorithm)
        claims = self._signed(token, algorithm, keys)
        if claims is None:
            more = await self._ring.find_more(kid, algorithm, keys)
            claims = self._signed(token, algorithm, more)
        if claims is None:
            raise _refused(_WHY[jwt.InvalidSignatureError])
        return self._identity(claims)

    def _signed(self, token: str, algorithm: str, keys: Iterable[Key]) -> Mapping[str, Any] | None:
        """The claims, checked; None if none of these keys signed them. Raises Unauthenticated."""
        for key in keys:
            try:
                return jwt.decode(
                    token,
                    key.key,
                    algorithms=[algorithm],
                    audience=self._options.audience,
                    issuer=self._options.issuer or None,
                    leeway=self._options.leeway_ms / 1_000,
                    options={"require": ["exp", *(["iss"] if self._options.issuer else [])]},
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise Unauthenticated("token_expired", "the token has expired") from None
            except _BROKEN as error:
                raise _refused(_WHY.get(type(error), "the token is malformed")) from None
        return None

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        try:
            expires_s, leeway_s = float(claims["exp"]), self._options.leeway_ms / 1_000
            issued_s = float(claims.get("iat") or 0)
        except (ValueError, TypeError, OverflowError):
            raise _refused("a time of the token is no number") from None
        if not expires_s + leeway_s > time.time():  # also of one that is no number at all
            raise Unauthenticated("token_expired", "the token has expired")
        one = claims.get("tenant")
        return Identity(
            tenants=_names(claims, "tenants", whole=True) if one is None else Names((_whole(one, "tenant"),)),
            streams=_names(claims, "streams"),
            kinds=_names(claims, "kinds", whole=True),
            scopes=_scopes(claims),
            subject=_text(claims, "sub"),
            token_id=_text(claims, "jti"),
            issued_s=issued_s,
            expires_s=expires_s,
            leeway_s=leeway_s,
        )


def _head(token: str) -> tuple[str, str]:
    if len(token) > TOKEN_CHARS_MAX:
        raise _refused(f"the token is longer than {TOKEN_CHARS_MAX} characters")
    try:
        head = jwt.get_unverified_header(token)
        kid, algorithm = head.get("kid", ""), head["alg"]
    except _BROKEN:
        raise _refused("the token is malformed") from None
    if not isinstance(kid, str) or not isinstance(algorithm, str) or "crit" in head:
        raise _refused("the token is malformed")
    return kid, algorithm


def _names(claims: Mapping[str, Any], claim: str, *, whole: bool = False) -> Names:
    """The names of a claim; none if it is not there."""
    value = claims.get(claim, [])
    if not isinstance(value, list) or len(value) > PATTERNS_MAX:
        raise _refused(f"claim {claim!r} must be a list of at most {PATTERNS_MAX} names")
    return Names(tuple(_whole(name, claim) if whole else _pattern(name, claim) for name in value))


def _pattern(value: object, claim: str) -> str:
    if not is_pattern(value):
        raise _refused(f"claim {claim!r} holds what is no name, and no beginning of names with * at its end")
    return value


def _whole(value: object, claim: str) -> str:
    if not is_whole(value):
        raise _refused(f"claim {claim!r} must name them whole, or be *")
    return value


def is_pattern(value: object) -> TypeGuard[str]:
    """A name, or the beginning of names; a star that stands elsewhere would look like one that works."""
    return isinstance(value, str) and (value == "*" or bool(_PATTERN.fullmatch(value.removesuffix("*"))))


def is_whole(value: object) -> TypeGuard[str]:
    """A whole name, or ``*``: a beginning would let in tenants that nobody thought of."""
    return isinstance(value, str) and (value == "*" or bool(_PATTERN.fullmatch(value)))


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Of ``scope`` (RFC 8693: text with spaces, or a list); words of other services are passed over."""
    value = claims.get("scope", "")
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _refused("claim 'scope' must be text, words with spaces between them, or a list of them")
    return frozenset(words).intersection(SCOPES)


def _text(claims: Mapping[str, Any], claim: str) -> str:
    value = claims.get(claim) or ""
    if not isinstance(value, str) or len(value) > TEXT_CHARS_MAX or _HALF.search(value):
        raise _refused(f"claim {claim!r} must be text of at most {TEXT_CHARS_MAX} characters")
    return value


def _refused(detail: str) -> Unauthenticated:
    return Unauthenticated("token_refused", detail)
