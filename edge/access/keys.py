"""Keys that tokens are checked with: read, judged, and each bound to the algorithms that it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from edge.errors import KeysRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

KEYS_MAX: Final = 32
"""Of one source: a rotation needs two, an issuer of many services some more."""
KEYS_BYTES_MAX: Final = 262_144
SECRET_BYTES_MIN: Final = 32
"""RFC 7518, section 3.2: a key of the hash's size or larger."""
_RSA_BITS_MIN: Final = 2_048
_RSA: Final = frozenset({"RS256", "RS384", "RS512"})
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_KID_SHOWN_CHARS: Final = 64
_PEM_END: Final = b"-----END PUBLIC KEY-----"


@dataclass(frozen=True, slots=True)
class Key:
    """One key and what a token's head may say that it is signed with.

    The algorithms come of the key, never of the token: a public key is never taken for HS256's secret.
    """

    kid: str
    """Empty: it is tried whatever key a token names."""
    algorithms: frozenset[str]
    key: PublicKey | bytes


def keys_of(data: bytes, where: str, passed_over: Callable[[str], None] | None = None) -> tuple[Key, ...]:
    """Read public keys, PEM or JWKS.

    ``passed_over`` is told of each member of a JWKS that should sign and cannot be used; the others serve.

    Raises:
        KeysRefused: none can be used, or the text holds what must not be there. It is never shown.
    """
    if len(data) > KEYS_BYTES_MAX:
        raise KeysRefused(f"{where} is larger than {KEYS_BYTES_MAX} bytes")
    if b"PRIVATE KEY-----" in data:
        raise KeysRefused(f"{where} holds a private key: an edge only checks tokens, it must not make them")
    found = _of_pem(data, where) if _PEM_END in data else _of_jwks(data, where, passed_over)
    if not found:
        raise KeysRefused(f"{where} holds no key that signs tokens")
    if len(found) > KEYS_MAX:
        raise KeysRefused(f"{where} holds {len(found)} keys, at most {KEYS_MAX}")
    return tuple(found)


def secret_of(data: bytes, where: str) -> tuple[Key, ...]:
    """Read the secret of HS256; a newline at the end of its file is not of it. Raises KeysRefused."""
    secret = data.rstrip(b"\r\n")
    if len(secret) < SECRET_BYTES_MIN:
        raise KeysRefused(f"{where} holds a secret of {len(secret)} bytes, at least {SECRET_BYTES_MIN}")
    if b"-----BEGIN" in secret:
        raise KeysRefused(f"{where} holds a key in PEM, which is no secret")
    return (Key("", frozenset({"HS256"}), secret),)


def _of_pem(data: bytes, where: str) -> list[Key]:
    found: list[Key] = []
    for block in data.split(_PEM_END)[:-1]:
        try:
            key = load_pem_public_key(block[block.find(b"-----BEGIN") :] + _PEM_END)
        except (ValueError, UnsupportedAlgorithm):
            raise KeysRefused(f"{where}: key {len(found)} (from 0) is no public key in PEM") from None
        found.append(_judged("", key, None, f"{where}: key {len(found)} (from 0)"))
    return found


def _of_jwks(data: bytes, where: str, passed_over: Callable[[str], None] | None) -> list[Key]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise KeysRefused(f"{where} is neither PEM of a public key nor JSON") from None
    listed = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        raise KeysRefused(f"{where} is no JWKS: an object with a list of keys")
    found = []
    for number, member in enumerate(listed):
        if not isinstance(member, dict) or member.get("use", "sig") != "sig":
            continue  # an issuer's set may hold keys of other uses
        if member.get("kty") == "oct" or "d" in member:
            raise KeysRefused(
                f"{where}: key {number} (from 0) is secret: such a set is for everybody to read"
            )
        kid = member.get("kid", "")
        try:
            # Whatever the member holds, it must not keep the others from serving: PyJWT raises
            # NotImplementedError of an algorithm without keys. Its messages would show the key.
            key = jwt.PyJWK(member).key
            found.append(_judged(kid if isinstance(kid, str) else "", key, member, "it"))
        except Exception as error:  # noqa: BLE001  # for the reason above
            if passed_over is not None:
                why = f": {error}" if isinstance(error, KeysRefused) else ": no key that can be read"
                passed_over(f"key {number} (from 0), kid {str(kid)[:_KID_SHOWN_CHARS]!r}{why}")
    return found


def _judged(kid: str, key: Any, member: Mapping[str, object] | None, where: str) -> Key:
    """Bind a key to what it is for. Raises KeysRefused for one that is too weak, or of another kind."""
    if isinstance(key, RSAPublicKey) and key.key_size >= _RSA_BITS_MIN:
        algorithms = _RSA
    elif isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES:
        algorithms = frozenset({_CURVES[key.curve.name]})
    elif isinstance(key, Ed25519PublicKey):
        algorithms = frozenset({"EdDSA"})
    else:
        raise KeysRefused(f"{where} is too short, or of a kind that is not taken")
    if member is not None and "alg" in member:
        algorithms &= {member["alg"]}
    if not algorithms:
        raise KeysRefused(f"{where} is for an algorithm that is not taken")
    return Key(kid, algorithms, key)
