"""The keys of now: what a file or an issuer that does wrong may not do to the keys that are known."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from edge.access import jwks
from edge.access.jwks import jwks_from
from edge.access.keyring import CANDIDATES_MAX, KeyRing
from edge.access.options import AccessOptions
from edge.access.tokens import Verifier
from edge.errors import KeysRefused, KeysUnavailable, Unauthenticated
from tests.support.tokens import ISSUER, Issuer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge.access.keys import Key

LOOK_MS = 20


def jwk_set(*issuers: Issuer | dict[str, Any]) -> bytes:
    members = [one if isinstance(one, dict) else one.jwk for one in issuers]
    return json.dumps({"keys": members}).encode()


def kids(ring: KeyRing) -> list[str]:
    return [key.kid for key in ring.keys]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # the ring tells nobody
            await asyncio.sleep(LOOK_MS / 1_000)


@pytest.fixture
def file(tmp_path) -> Path:
    file: Path = tmp_path / "keys"
    file.write_bytes(jwk_set(Issuer("a")))
    return file


# ------------------------------------------------------------------ members that cannot be used

UNUSABLE = [
    pytest.param({"alg": "none"}, id="an algorithm without keys"),
    pytest.param({"alg": ["ES256"]}, id="an algorithm that is no text"),
    pytest.param({"alg": "HS256"}, id="a secret's algorithm"),
    pytest.param({"x": 7}, id="a number for a coordinate"),
    pytest.param({"crv": None, "kty": {}}, id="a kind that is no text"),
]


@pytest.mark.parametrize("odd", UNUSABLE)
def test_a_member_that_cannot_be_used_is_told_by_name_and_the_others_serve(file, odd):
    file.write_bytes(jwk_set({**Issuer("odd").jwk, **odd}, Issuer("good")))
    with capture_logs() as logs:
        ring = KeyRing(AccessOptions(keys_file=file), None)
    assert kids(ring) == ["good"]
    (told,) = [line for line in logs if line["event"] == "keys_passed_over"]
    assert told["keys"] == ["key 0 (from 0), kid 'odd': no key that can be read"]
    assert told["where"] == str(file)


def test_a_member_for_encryption_is_nothing_to_tell(file):
    file.write_bytes(jwk_set({**Issuer("enc").jwk, "use": "enc"}, Issuer("good")))
    with capture_logs() as logs:
        assert kids(KeyRing(AccessOptions(keys_file=file), None)) == ["good"]
    assert logs == []


def test_a_file_is_looked_at_again_after_whatever_one_look_raised(file, monkeypatch):
    def broken(data: bytes, where: str, passed_over: Any) -> tuple[Key, ...]:
        raise NotImplementedError(data)

    async def scene() -> None:
        ring = KeyRing(AccessOptions(keys_file=file, file_look_ms=LOOK_MS), None)
        ring.start()
        with monkeypatch.context() as patched, capture_logs() as logs:
            patched.setattr("edge.access.keyring.keys_of", broken)
            file.write_bytes(jwk_set(Issuer("b")))
            await until(lambda: bool(ring.problem))
            await asyncio.sleep(5 * LOOK_MS / 1_000)
            assert kids(ring) == ["a"]
            assert ring.problem == f"{file} cannot be used: NotImplementedError"
        assert [line["event"] for line in logs] == ["keys_not_read"]
        await until(lambda: kids(ring) == ["b"])
        await until(lambda: not ring.problem)
        await ring.stop()

    asyncio.run(scene())


# ------------------------------------------------------------------ an issuer that hangs


def test_an_answer_that_comes_a_byte_at_a_time_is_given_up(monkeypatch):
    monkeypatch.setattr(jwks, "_TIMEOUT_S", 0.5)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.1)

    async def scene() -> float:
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
        began_s = time.monotonic()
        async with asyncio.timeout(30):
            with pytest.raises(KeysRefused, match=r"did not answer in full within 0\.5 s"):
                await jwks_from(url)()
        server.close()
        return time.monotonic() - began_s

    assert asyncio.run(scene()) < 20


def test_a_file_is_read_again_while_the_issuer_hangs(file):
    async def hangs() -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    async def scene() -> None:
        options = AccessOptions(keys_file=file, jwks_url="https://issuer.test/jwks", file_look_ms=LOOK_MS)
        ring = KeyRing(options, hangs)
        ring.start()
        await until(lambda: ring._fetching is not None)
        file.write_bytes(jwk_set(Issuer("b")))
        await until(lambda: kids(ring) == ["b"])
        await ring.stop()

    asyncio.run(scene())


# ------------------------------------------------------------------ more keys than are tried


def pems(count: int) -> bytes:
    return b"".join(Issuer().pem for _ in range(count))


def nameless(count: int) -> bytes:
    return jwk_set(*({**Issuer().jwk, "kid": ""} for _ in range(count)))


@pytest.mark.parametrize("keys", [pems, nameless])
def test_keys_without_a_kid_that_no_token_would_be_tried_with_are_refused_at_the_start(file, keys):
    file.write_bytes(keys(CANDIDATES_MAX))
    assert len(KeyRing(AccessOptions(keys_file=file), None).keys) == CANDIDATES_MAX
    file.write_bytes(keys(CANDIDATES_MAX + 1))
    with pytest.raises(
        KeysRefused, match=r"holds 5 keys without a `kid` for ES256: a token is tried with 4"
    ) as told:
        KeyRing(AccessOptions(keys_file=file), None)
    assert str(file) in str(told.value)
    assert "JWKS" in told.value.remedy
    file.write_bytes(jwk_set(*(Issuer(f"k{number}") for number in range(20))))
    assert len(KeyRing(AccessOptions(keys_file=file), None).keys) == 20


def test_a_change_to_more_keys_than_are_tried_leaves_the_old_ones_and_is_a_problem(file):
    async def scene() -> None:
        ring = KeyRing(AccessOptions(keys_file=file, file_look_ms=LOOK_MS), None)
        ring.start()
        file.write_bytes(pems(CANDIDATES_MAX + 1))
        await until(lambda: "5 keys without a `kid` for ES256" in ring.problem)
        assert kids(ring) == ["a"]
        file.write_bytes(pems(2))
        await until(lambda: not ring.problem)
        assert kids(ring) == ["", ""]
        await ring.stop()

    asyncio.run(scene())


def test_keys_of_all_sources_are_counted_together(file):
    async def one_more() -> bytes:
        return nameless(1)

    async def scene() -> None:
        file.write_bytes(pems(CANDIDATES_MAX))
        ring = KeyRing(AccessOptions(keys_file=file, jwks_url="https://issuer.test/jwks"), one_more)
        await ring._fetch_now()
        assert (
            "https://issuer.test/jwks holds 1 keys without a `kid` for ES256, beside 4 of other"
            in ring.problem
        )
        assert len(ring.keys) == CANDIDATES_MAX

    asyncio.run(scene())


# ------------------------------------------------------------------ an issuer that rotates


class Published:
    """What an issuer publishes, and how often it was asked."""

    def __init__(self, *issuers: Issuer) -> None:
        self.issuers = list(issuers)
        self.fetches = 0
        self.away = False

    async def __call__(self) -> bytes:
        self.fetches += 1
        if self.away:
            raise OSError("no route")
        return jwk_set(*self.issuers)


@pytest.mark.parametrize("beside_pem", [False, True])
def test_a_key_that_was_rotated_in_is_fetched_with_keys_in_pem_beside_it_too(file, beside_pem):
    pinned, first, second, stranger = Issuer("pinned"), Issuer("one"), Issuer("two"), Issuer("three")
    file.write_bytes(pinned.pem)

    async def scene() -> None:
        published = Published(first)
        options = AccessOptions(
            keys_file=file if beside_pem else None,
            jwks_url="https://issuer.test/jwks",
            issuer=ISSUER,
            keys_retry_ms=60_000,
        )
        ring = KeyRing(options, published)
        verifier = Verifier(ring, options)
        await ring._fetch_now()
        published.issuers.append(second)
        ring._tried_s = float("-inf")
        if beside_pem:
            assert (await verifier.verify(pinned.token())).subject == "ann"
        assert (await verifier.verify(first.token())).subject == "ann"
        assert published.fetches == 1  # a key that is known asks for nothing
        assert (await verifier.verify(second.token())).subject == "ann"
        assert published.fetches == 2
        for _ in range(3):
            with pytest.raises(Unauthenticated):
                await verifier.verify(stranger.token())
        assert published.fetches == 2  # a moment ago

        published.away = True
        ring._tried_s = float("-inf")
        with pytest.raises(KeysUnavailable):
            await verifier.verify(stranger.token())
        assert (await verifier.verify(second.token())).subject == "ann"

    asyncio.run(scene())
