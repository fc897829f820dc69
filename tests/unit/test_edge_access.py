"""What a token lets somebody do, which keys are taken, what is revoked, and how rates are kept."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256K1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.access.gate import Gate
from edge.access.identity import ANYBODY, SCOPES, Identity, Names
from edge.access.jwks import jwks_from
from edge.access.keys import KEYS_MAX, keys_of, secret_of
from edge.access.options import AccessOptions
from edge.access.origins import Origins
from edge.access.quotas import OTHERS, Quotas
from edge.access.revocations import Revocation, Revocations, unreadable
from edge.access.tokens import PATTERNS_MAX
from edge.errors import (
    Forbidden,
    KeysRefused,
    KeysUnavailable,
    NetworkRefused,
    OriginsRefused,
    Unauthenticated,
)
from edge.metrics import EdgeMetrics
from edge.options import EdgeOptions
from edge.recorded import create_replay_app
from schemas.recording import RecordingHeader
from tests.support.tokens import ALL, ISSUER, Issuer, confused, unsigned

if TYPE_CHECKING:
    from edge.app import EdgeApp

# ------------------------------------------------------------------ names and claims


def test_names_are_whole_or_beginnings_or_all():
    names = Names(("one", "build-*"))
    assert [name in names for name in ("one", "one-more", "build-", "build-7", "rebuild-7", "")] == [
        True, False, True, True, False, False,
    ]  # fmt: skip
    assert "anything" in Names(("*",))
    assert "anything" not in Names()
    assert (Names(("*",)).all, names.all, Names().all) == (True, False, False)
    assert (Names(("acme",)).only, names.only, Names(("*",)).only, Names().only) == ("acme", "", "", "")


def test_an_identity_without_claims_may_do_nothing():
    nobody = Identity()
    for judge in (nobody.may_subscribe, nobody.may_publish, nobody.may_cancel, nobody.may_see):
        assert isinstance(judge("t", "s", "job"), Forbidden)
        assert isinstance(judge("t", "s", ""), Forbidden)
    assert nobody.may_operate()
    assert nobody.may_list()
    assert not nobody.lists("t", "s", "job")


def test_who_names_no_tenant_is_told_so():
    acme = Identity(Names(("acme",)), Names(("*",)), Names(("*",)), frozenset(SCOPES))
    assert "name yours (`tenant`)" in str(refused(acme.may_publish("default", "s", "job")).remedy)
    assert "name yours" not in str(refused(acme.may_publish("other", "s", "job")).remedy)


def refused(judged: Forbidden | None) -> Forbidden:
    assert judged is not None
    return judged


@pytest.mark.parametrize("missing", ["tenants", "streams", "kinds", "scopes"])
def test_each_claim_is_needed(missing):
    every = Names(("*",))
    claims: dict[str, Any] = {"tenants": every, "streams": every, "kinds": every, "scopes": frozenset(SCOPES)}
    assert Identity(**claims).may_subscribe("t", "s", "job") is None
    del claims[missing]
    assert Identity(**claims).may_subscribe("t", "s", "job")
    assert Identity(**claims).may_publish("t", "s", "job")


def test_a_scope_opens_its_own_doors_alone():
    def opened(scope: str) -> set[str]:
        who = Identity(Names(("*",)), Names(("*",)), Names(("*",)), frozenset({scope}))
        doors = {
            "subscribe": who.may_subscribe("t", "s", "job"),
            "publish": who.may_publish("t", "s", "job"),
            "cancel": who.may_cancel("t", "s", "job"),
            "see": who.may_see("t", "s", "job"),
            "list": who.may_list(),
            "operate": who.may_operate(),
        }
        return {name for name, denied in doors.items() if denied is None}

    assert {scope: opened(scope) for scope in SCOPES} == {
        "subscribe": {"subscribe", "see", "list"},
        "publish": {"publish", "cancel", "see"},
        "cancel": {"cancel"},
        "operate": {"operate"},
    }


# ------------------------------------------------------------------ keys


def pem(key: Any) -> bytes:
    found: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


def test_keys_are_bound_to_the_algorithms_that_they_are_for():
    rsa, edwards = generate_rsa(65_537, 2_048), Ed25519PrivateKey.generate()
    keys = keys_of(pem(rsa) + pem(edwards) + pem(generate_private_key(SECP384R1())), "f")
    assert [set(key.algorithms) for key in keys] == [{"RS256", "RS384", "RS512"}, {"EdDSA"}, {"ES384"}]
    jwk = {**jwt.algorithms.RSAAlgorithm.to_jwk(rsa.public_key(), as_dict=True), "alg": "RS384", "kid": "r"}
    (key,) = keys_of(json.dumps({"keys": [jwk]}).encode(), "f")
    assert (key.kid, set(key.algorithms)) == ("r", {"RS384"})
    (secret,) = secret_of(b" " + b"s" * 32 + b" \r\n", "f")
    assert (secret.key, set(secret.algorithms)) == (b" " + b"s" * 32 + b" ", {"HS256"})


SECRET = base64.urlsafe_b64encode(b"sesame-sesame-sesame-sesame-sesa").decode().rstrip("=")


def test_keys_that_are_weak_secret_or_none_are_refused_and_never_shown():
    private = Ed25519PrivateKey.generate()
    text = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    jwk = jwt.algorithms.OKPAlgorithm.to_jwk(private, as_dict=True)
    bad = {
        "weak": pem(generate_rsa(65_537, 1_024)),
        "curve": pem(generate_private_key(SECP256K1())),
        "private": text,
        "private in a set": json.dumps({"keys": [jwk]}).encode(),
        "secret in a set": json.dumps({"keys": [{"kty": "oct", "k": SECRET}]}).encode(),
        "no set": b'{"no": 1}',
        "no json": b"sesame",
        "broken": b"-----BEGIN PUBLIC KEY-----\nxyz\n-----END PUBLIC KEY-----\n",
        "empty": b'{"keys": []}',
        "for encryption": json.dumps({"keys": [{**Issuer().jwk, "use": "enc"}]}).encode(),
        "many": json.dumps({"keys": [Issuer().jwk] * (KEYS_MAX + 1)}).encode(),
    }
    for name, data in bad.items():
        with pytest.raises(KeysRefused) as refused:
            keys_of(data, "the-file")
        assert "the-file" in str(refused.value), name
        assert "sesame" not in str(refused.value)
        assert SECRET not in str(refused.value)
        assert jwk["d"] not in str(refused.value)
    for secret in (b"short", b"-----BEGIN PUBLIC KEY-----" + b"x" * 40):
        with pytest.raises(KeysRefused):
            secret_of(secret, "f")


def test_what_a_set_holds_beside_what_signs_is_passed_over():
    strange = {"kty": "new", "kid": "x"}
    (key,) = keys_of(json.dumps({"keys": [strange, 7, Issuer("good").jwk]}).encode(), "f")
    assert key.kid == "good"


@pytest.mark.parametrize("url", ["http://issuer.example/jwks", "ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_keys_are_not_fetched_where_somebody_on_the_way_could_answer(url):
    with pytest.raises(KeysRefused) as refused:
        jwks_from(url)
    assert "https://" in refused.value.remedy
    assert "PEM" not in refused.value.remedy
    assert jwks_from("https://issuer.example/jwks")
    assert jwks_from("http://127.0.0.1:1/jwks")


# ------------------------------------------------------------------ tokens


def gate_of(tmp_path: Any, **options: Any) -> Gate:
    gate = Gate(AccessOptions(issuer=ISSUER, **options), EdgeMetrics(), cors_origins=["https://app.test"])
    gate.revocations.complete = True
    return gate


def who(gate: Gate, token: str) -> Identity:
    return asyncio.run(gate.identify([(b"authorization", b"Bearer " + token.encode())]))


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def gate(tmp_path, issuer) -> Gate:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [issuer.jwk]}))
    return gate_of(tmp_path, keys_file=file)


def test_a_token_becomes_an_identity_that_does_not_hold_it(gate, issuer):
    token = issuer.token(tenant="acme", streams=["a-*"], kinds=["job"], scope="subscribe other", jti="j1")
    found = who(gate, token)
    assert (found.subject, found.token_id, found.tenants.only) == ("ann", "j1", "acme")
    assert found.scopes == {"subscribe"}
    assert found.expires_s == pytest.approx(time.time() + 600, abs=30)
    assert found.good_until_s == found.expires_s + 5
    assert not any(part in repr(found) for part in token.split("."))


def test_a_token_of_none_or_of_the_public_key_taken_for_a_secret_is_refused(gate, issuer, tmp_path):
    claims = issuer.claims(**ALL)
    file, secret = tmp_path / "pem", tmp_path / "secret"
    file.write_bytes(issuer.pem)
    secret.write_bytes(b"0123456789abcdef0123456789abcdef")
    both = gate_of(tmp_path, keys_file=file, secret_file=secret)
    for each in (gate, both, gate_of(tmp_path, keys_file=file)):
        for token in (unsigned(claims), unsigned(claims, "nOnE"), confused(issuer, claims)):
            with pytest.raises(Unauthenticated) as refused:
                who(each, token)
            assert refused.value.code == "token_refused"
    good = jwt.encode(claims, secret.read_bytes(), algorithm="HS256")
    assert who(both, good).subject == "ann"
    with pytest.raises(Unauthenticated):
        who(gate, good)
    with pytest.raises(Unauthenticated):  # a longer hash of the same secret was never allowed
        who(both, jwt.encode(claims, secret.read_bytes() * 2, algorithm="HS512"))


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": float("inf")},
        {"exp": [1]},
        {"exp": {"a": 1}},
        {"iat": "x"},
        {"iat": 32_503_680_000},
        {"sub": 7},
        {"sub": "x" * 300},
        {"jti": ["a"]},
        {"jti": "\ud800"},
        {"sub": "ann\udfff"},
        {"tenant": ["a"]},
        {"tenant": "a*"},
        {"tenants": ["a*"]},
        {"kinds": ["lo*"]},
        {"streams": [7]},
        {"streams": ["**"]},
        {"streams": ["a b"]},
        {"streams": [""]},
        {"streams": ["a"] * (PATTERNS_MAX + 1)},
        {"scope": {"subscribe": 1}},
        {"scope": [1]},
        {"aud": {"sluicegate": 1}},
        {"aud": [7]},
    ],
    ids=repr,
)
def test_claims_of_a_wrong_shape_are_refused_whoever_signed_them(gate, issuer, claims):
    made = {**issuer.claims(**ALL), **claims}
    token = jwt.api_jws.encode(
        json.dumps(made).encode(), issuer.private, "ES256", {"kid": "k1", "typ": "JWT"}
    )
    with pytest.raises(Unauthenticated) as refused:
        who(gate, token)
    assert refused.value.code in ("token_refused", "token_expired")


@pytest.mark.parametrize("claim", ["sub", "jti", "iat"])
def test_a_claim_that_the_library_refuses_is_named(gate, issuer, claim):
    with pytest.raises(Unauthenticated, match=claim):
        who(gate, issuer.token(**{claim: ["x"]}))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=200) | st.binary(max_size=300).map(lambda data: data.decode("latin-1")))
def test_no_text_breaks_the_check_or_is_repeated_by_it(gate, issuer, text):
    good = issuer.token(**ALL)
    head = base64.urlsafe_b64encode(json.dumps({"alg": text, "kid": text, "typ": text}).encode()).decode()
    tokens = (f"x{text}", f"{text}.{text}.{text}", f"{good}.{text}", f"{head.rstrip('=')}.e30.{text}")
    for token in tokens:
        with pytest.raises(Unauthenticated) as refused:
            who(gate, token)
        assert len(text) < 12 or text not in str(refused.value)


def test_nested_json_does_not_break_the_check(gate):
    deep = base64.urlsafe_b64encode(b"[" * 5_000).decode().rstrip("=")
    with pytest.raises(Unauthenticated):
        who(gate, f"{deep}.{deep}.x")


def test_where_a_token_may_stand(gate, issuer):
    token = issuer.token(**ALL).encode()

    def asked(*headers: tuple[bytes, bytes]) -> str:
        try:
            return asyncio.run(gate.identify(headers, {"access_token": [token.decode()]})).subject
        except Unauthenticated as refused:
            return refused.code

    assert asked((b"authorization", b"bearer " + token)) == "ann"
    assert asked() == asked((b"cookie", b"sluice=" + token)) == "no_token"  # neither is switched on
    assert asked((b"authorization", b"Basic YTpi")) == "token_refused"
    assert asked((b"authorization", b"Bearer ")) == "token_refused"
    assert asked(*[(b"authorization", b"Bearer " + token)] * 2) == "token_refused"


def test_nobody_is_let_in_before_the_revocations_were_read(gate, issuer):
    gate.revocations.complete = False
    with pytest.raises(KeysUnavailable, match="which tokens were revoked"):
        who(gate, issuer.token(**ALL))


# ------------------------------------------------------------------ every route

OPEN = {"/healthz", "/readyz", "/client/sluicegate.js"}


def routes_of(app: EdgeApp) -> list[tuple[str, str]]:
    """Method and path of each route there is, whoever made it."""
    inner: Any = app
    while not isinstance(inner, FastAPI):
        inner = inner._app if hasattr(inner, "_app") else inner.app
    found = []
    for route in iter_all(inner.routes):
        found += [(method, re.sub(r"\{[^}]*\}", "x", route.path)) for method in route.methods or ("GET",)]
    return found


def iter_all(routes: Any) -> Any:
    for route in routes:
        below = getattr(route, "routes", None) or getattr(
            getattr(route, "original_router", None), "routes", None
        )
        if below:
            yield from iter_all(below)
        else:
            yield route


def asked(app: EdgeApp, method: str, path: str) -> int:
    """The status of a request without a token."""
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope: dict[str, Any] = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"host", b"localhost")], "http_version": "1.1", "scheme": "http", "root_path": "",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "extensions": {},
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    return statuses[0]


@pytest.mark.parametrize("origins", [(), ("https://app.test",)])
def test_no_route_is_open_but_those_that_are_meant_to_be(tmp_path, issuer, origins):
    file = tmp_path / "pem"
    file.write_bytes(issuer.pem)
    options = EdgeOptions(access=AccessOptions(keys_file=file), cors_origins=origins)
    app = create_replay_app(
        RecordingHeader("default", "one", "log", "2026-01-01T00:00:00Z"), [], None, options
    )
    routes = routes_of(app)
    assert {path for _, path in routes} >= {
        *OPEN,
        "/metrics",
        "/console",
        "/v1/streams",
        "/v1/streams/x/events",
    }
    for method, path in routes:
        assert (asked(app, method, path) == 200) == (path in OPEN), (method, path)


# ------------------------------------------------------------------ revocations


def test_a_revocation_is_of_a_token_or_of_what_a_subject_was_given_before():
    held = Revocations(10)
    held.put(b"jti:j1", Revocation("jti", "j1", 0, 0))
    held.put(b"sub:bob", Revocation("sub", "bob", 1_000.5, 0))
    held.put(b"jti:over", Revocation("jti", "over", 0, time.time() - 1))

    def holds(**claims: Any) -> bool:
        return held.holds(Identity(**claims))

    assert holds(token_id="j1")
    assert not holds(token_id="j2", subject="j1")
    assert not holds(token_id="over")
    assert not holds(token_id="bob")
    assert holds(subject="bob", issued_s=1_000)
    assert holds(subject="bob")
    assert not holds(subject="bob", issued_s=1_001)
    assert not held.holds(ANYBODY)
    held.put(b"jti:j1", None)
    assert not holds(token_id="j1")
    held.put(b"sub:eve", unreadable(b"sub:eve"))
    assert holds(subject="eve", issued_s=time.time() + 999)
    assert unreadable(b"new:thing") is None


def test_revocations_are_bounded_and_one_that_finds_no_room_is_not_kept_secret():
    held = Revocations(2)
    held.put(b"jti:over", Revocation("jti", "over", 0, time.time() - 1))
    for name in ("a", "b"):
        held.put(b"jti:" + name.encode(), Revocation("jti", name, 0, 0))
    assert (len(held), held.overflown) == (2, False)  # what is over gave way
    held.put(b"jti:c", Revocation("jti", "c", 0, 0))
    assert (len(held), held.overflown) == (2, True)
    held.put(b"jti:a", None)
    held.put(b"jti:d", Revocation("jti", "d", 0, 0))
    assert held.holds(Identity(token_id="d"))
    assert held.overflown  # "c" is not held, and will not be


def test_nobody_is_let_in_where_a_revocation_found_no_room(tmp_path, issuer):
    file = tmp_path / "pem"
    file.write_bytes(issuer.pem)
    gate = gate_of(tmp_path, keys_file=file, revocations_max=1)
    gate.revocations.put(b"jti:a", Revocation("jti", "a", 0, 0))
    assert who(gate, issuer.token(**ALL))
    gate.revocations.put(b"jti:b", Revocation("jti", "b", 0, 0))
    with pytest.raises(KeysUnavailable, match="more than 1 revocations"):
        who(gate, issuer.token(**ALL))
    assert [cause for cause, _ in gate.unready] == ["revocations"]


# ------------------------------------------------------------------ origins, limits, addresses


def test_an_origin_is_admitted_by_name_or_as_the_edges_own():
    named, every = Origins(["https://app.test"]), Origins(["*"])
    assert named.admits("https://app.test", "edge:1")
    assert named.admits("http://edge:1", "EDGE:1")
    assert not named.admits("https://app.test.evil", "edge:1")
    assert not named.admits("null", "")
    assert not named.admits("http://[", "edge:1"), "which no parser of addresses takes"
    assert every.admits("https://any.test", "edge:1")
    assert not every.admits("null", "edge:1")
    assert not every.admits_cookie("GET", {b"origin": b"https://any.test", b"host": b"edge:1"})


def test_a_tenants_rate_is_kept_and_another_tenants_is_its_own():
    quotas = Quotas(EdgeMetrics(), connections_max=0, events_per_s_max=10, burst_events=100)
    assert quotas.take("a", 100, 0.0) == 0
    assert quotas.take("a", 5, 0.0) == pytest.approx(0.5)
    assert quotas.take("a", 5, 0.25) == pytest.approx(0.25)
    assert quotas.take("a", 5, 0.5) == 0
    assert quotas.take("b", 100, 0.5) == 0
    assert quotas.take("a", 100, 10.5) == 0  # it fills up, and not beyond
    assert quotas.take("a", 1, 10.5) == pytest.approx(0.1)
    assert (
        Quotas(EdgeMetrics(), connections_max=0, events_per_s_max=0, burst_events=1).take("a", 9_999, 0) == 0
    )


def test_connections_are_counted_a_tenant_and_given_back():
    quotas = Quotas(EdgeMetrics(), connections_max=2, events_per_s_max=0, burst_events=1)
    for _ in range(2):
        assert not quotas.is_full("a")
        quotas.opened("a")
    assert quotas.is_full("a")
    assert not quotas.is_full("b")
    quotas.closed("a")
    assert not quotas.is_full("a")


def test_metrics_name_so_many_tenants_and_no_more():
    metrics = EdgeMetrics()
    quotas = Quotas(metrics, connections_max=1, events_per_s_max=1, burst_events=1)
    for number in range(500):
        quotas.hit("tenant_events", f"t{number}")
    (family,) = metrics.limited.collect()
    counts = {sample.labels["tenant"]: sample.value for sample in family.samples if "total" in sample.name}
    assert (len(counts), counts[OTHERS]) == (101, 400)


def test_with_keys_any_address_is_bound_and_without_them_a_star_lets_no_page_in(tmp_path):
    keys = AccessOptions(keys_file=tmp_path / "k")
    assert EdgeOptions(host="0.0.0.0", access=keys).checked()
    with pytest.raises(NetworkRefused, match="without keys"):
        EdgeOptions(host="0.0.0.0").checked()
    assert EdgeOptions(cors_origins=("*",), access=keys).checked()
    with pytest.raises(OriginsRefused):
        EdgeOptions(cors_origins=("*",)).checked()
    with pytest.raises(OriginsRefused):
        EdgeOptions(cors_origins=("*",), access=AccessOptions(keys_file=tmp_path, cookie="c")).checked()
