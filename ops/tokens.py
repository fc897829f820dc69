"""Tokens for a first day and for tests, and the lever that takes a token back wherever it was made."""

from __future__ import annotations

import os
import shlex
import time
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import uuid4

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from connectors.kafka.admin import ensure_topics
from connectors.kafka.committed import CommittedReader
from connectors.kafka.slot import ProducerSlot
from connectors.registry import Registry
from ops.errors import BadFile
from ops.person import who
from schemas.errors import WireError
from schemas.topics import AUDIT, REVOCATIONS
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from ops.settings import Settings

_TIMEOUT_MS: Final = 10_000
What = Literal["jti", "sub"]


# -- to issue ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Issued:
    """A token, and what must be known to use it and to take it back."""

    token: str
    token_id: str
    expires_s: int
    keys_file: Path


def issue(folder: Path, claims: Mapping[str, object], *, audience: str, issuer: str, life_s: int) -> Issued:
    """Sign a token with the key of a folder, which is made if there is none.

    Raises:
        BadFile: the key that is there cannot be used.
    """
    private, kid = _own_key(folder)
    now_s, token_id = int(time.time()), str(uuid4())
    made: dict[str, Any] = {
        **claims,
        "jti": token_id,
        "aud": audience,
        "iat": now_s,
        "nbf": now_s,
        "exp": now_s + life_s,
    }
    if issuer:
        made["iss"] = issuer
    token = jwt.encode(made, private, algorithm="EdDSA", headers={"kid": kid})
    return Issued(token, token_id, now_s + life_s, folder / "keys.json")


def _own_key(folder: Path) -> tuple[Ed25519PrivateKey, str]:
    file = folder / "signing.pem"
    if not file.exists():
        _make_key(folder, file)
    try:
        private = load_pem_private_key(file.read_bytes(), None)
        kid = orjson.loads((folder / "keys.json").read_bytes())["keys"][0]["kid"]
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        raise BadFile(
            str(file), "is no key that was made here", "remove the folder, and issue again"
        ) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise BadFile(str(file), "is no Ed25519 key", "remove the folder, and issue again")
    return private, str(kid)


def _make_key(folder: Path, file: Path) -> None:
    """Write the public half first: whoever finds the private one finds both."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    private = Ed25519PrivateKey.generate()
    public = jwt.algorithms.OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
    public |= {"kid": f"dev-{token_hex(4)}", "use": "sig", "alg": "EdDSA"}
    (folder / "keys.json").write_bytes(orjson.dumps({"keys": [public]}, option=orjson.OPT_INDENT_2) + b"\n")
    text = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
        opened.write(text)


# -- to take back -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Revoked:
    """A revocation that holds now."""

    key: str
    by: str
    reason: str
    since_us: int
    until_us: int


def key_of(what: What, name: str) -> str:
    """Return the key under which a revocation stands: ``jti:ID`` or ``sub:NAME``."""
    return f"{what}:{name}"


def words_of(key: str) -> str:
    """Return a revocation's key as a command line has it."""
    what, _, name = key.partition(":")
    return shlex.quote(name) + (" --subject" if what == "sub" else "")


class Revoker:
    """Moves the lever, each time with its audit record in one transaction; to be closed."""

    def __init__(self, settings: Settings, kafka: KafkaOptions, registry_url: str) -> None:
        self._settings = settings
        self._kafka = kafka
        self._registry = Registry(registry_url)

    def held(self) -> list[Revoked]:
        """Return the revocations that hold now, oldest first; an unreadable one has no words."""
        codec, now_us = WireCodec(self._registry), time.time_ns() // 1_000
        found: dict[str, Revoked] = {}
        for key, value, since_us in self._records():
            found.pop(key, None)
            if value is None:
                continue
            try:
                fields = codec.decode(value, REVOCATIONS.subject)
            except WireError as error:
                fields = {"by": "", "reason": f"unreadable: {error}", "until_us": 0}
            found[key] = Revoked(key, fields["by"], fields["reason"], since_us, fields["until_us"])
        return [one for one in found.values() if not 0 < one.until_us < now_us]

    def revoke(self, what: What, name: str, *, reason: str, until_us: int) -> None:
        """Take a token back, or all that a subject was given until now.

        Raises:
            AppendFailed: Kafka did not take it, or nobody knows; it may be done again.
        """
        fields = {
            "what": what,
            "name": name,
            "issued_until_us": time.time_ns() // 1_000 if what == "sub" else 0,
            "until_us": until_us,
            "by": who(),
            "reason": reason,
        }
        key = key_of(what, name)
        undo = f"sluicegate tokens revoke {words_of(key)} --undo --yes"
        self._append(key, fields, {"action": "tokens revoke", "undo": undo, "reason": reason})

    def restore(self, what: What, name: str, *, reason: str) -> None:
        """Take a revocation back. Raises as ``revoke``."""
        key = key_of(what, name)
        undo = f"sluicegate tokens revoke {words_of(key)} --reason {shlex.quote('restored too early')} --yes"
        self._append(key, None, {"action": "undo tokens revoke", "undo": undo, "reason": reason})

    def close(self) -> None:
        """Let the connections go."""
        self._registry.close()

    def _append(self, key: str, fields: dict[str, Any] | None, audit: dict[str, str]) -> None:
        if self._settings.registry.register_schemas:
            self._registry.register_all()
        if self._settings.kafka.create_topics:
            ensure_topics(self._kafka, [REVOCATIONS, AUDIT])
        codec, prefix = WireCodec(self._registry), self._kafka.topic_prefix
        value = None if fields is None else codec.encode(REVOCATIONS.subject, fields)
        told = codec.encode(AUDIT.subject, {**audit, "target": key, "by": who()})
        slot = ProducerSlot(self._kafka, f"{prefix}sluicegate.lever.{token_hex(6)}", _TIMEOUT_MS)
        try:
            slot.append(
                [
                    (REVOCATIONS.named(prefix), key.encode(), value, 0),
                    (AUDIT.named(prefix), key.encode(), told, 0),
                ]
            )
        finally:
            slot.close()

    def _records(self) -> Iterator[tuple[str, bytes | None, int]]:
        reader = CommittedReader(self._kafka, REVOCATIONS.named(self._kafka.topic_prefix))
        try:
            for message in reader.present():
                key = (message.key() or b"").decode("utf-8", "backslashreplace")
                yield key, message.value(), message.timestamp()[1] * 1_000
        finally:
            reader.close()
