"""An edge with keys, as a process: who is let in, to what, for how long; and that no token is ever told."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.support.access_world import bearer, get, post, until, wait_for_connections, world
from tests.support.command_line import CommandLine
from tests.support.edge_fixtures import EDGE_TOPICS
from tests.support.sse_client import read_stream
from tests.support.tokens import ALL, ISSUER, Issuer, confused, jwks_server, keys_file, unsigned
from tests.support.ws_client import Talk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.edge_process import EdgeProcess


__all__ = ["world"]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def guarded(
    make_edge: Callable[..., EdgeProcess], issuer: Issuer, tmp_path: Path
) -> Callable[..., EdgeProcess]:
    """Make an edge that knows the issuer's keys; ``access`` goes on top."""

    def make(*, access: dict[str, Any] | None = None, **options: Any) -> EdgeProcess:
        told = {"keys_file": str(keys_file(tmp_path, issuer)), "issuer": ISSUER, **(access or {})}
        edge = make_edge(access=told, **options)
        edge.token = issuer.token(**ALL)
        return edge

    return make


def test_without_a_token_nothing_is_had_but_health_and_the_answer_says_how_to_bring_one(world):
    edge, twin = world.edge, world.twin
    twin.open("w", kind="job")
    pages = ("/", "/console", "/console/console.js", "/metrics", "/openapi.json", "/none")
    streams = ("", "/w", "/w/rejects", "/w/events", "/none/events", "/events", "/s/x/events")
    for path in (*pages, *(f"/v1/streams{each}" for each in streams)):
        answer = get(edge, path)
        assert (answer.status_code, answer.json()["code"]) == (401, "no_token"), path
        assert answer.headers["www-authenticate"] == 'Bearer realm="sluicegate"'
        assert "Authorization: Bearer" in answer.json()["remedy"]
    for path in ("/v1/streams/w/events?kind=job", "/v1/streams/w/cancel"):
        assert post(edge, path).status_code == 401
    for path in ("/healthz", "/readyz", "/client/sluicegate.js"):
        assert get(edge, path).status_code == 200
    assert get(edge, "/readyz").json() == {"status": "ready"}


def test_a_token_that_is_worth_nothing_is_refused_by_name_and_never_told(world):
    edge, twin, issuer = world.edge, world.twin, world.issuer
    twin.open("bad", kind="job")
    stranger = Issuer()
    claims = issuer.claims(**ALL)
    bad = {
        "expired": ("token_expired", issuer.token(life_s=-60, **ALL)),
        "not yet": ("token_refused", issuer.token(**ALL, nbf=time.time() + 600)),
        "foreign key": ("token_refused", stranger.token(**ALL)),
        "unknown key": ("token_refused", Issuer("k2").token(**ALL)),
        "audience": ("token_refused", issuer.token(**ALL, aud="others")),
        "issuer": ("token_refused", issuer.token(**ALL, iss="https://evil.test")),
        "no end": ("token_refused", issuer.token(**ALL, exp=None)),
        "end that is no number": ("token_refused", issuer.token(**ALL, exp="soon")),
        "none": ("token_refused", unsigned(claims)),
        "None": ("token_refused", unsigned(claims, "None")),
        "confused": ("token_refused", confused(issuer, claims)),
        "claim of a wrong shape": ("token_refused", issuer.token(**{**ALL, "streams": "*"})),
        "star in the middle": ("token_refused", issuer.token(**{**ALL, "streams": ["a*b"]})),
        "cut": ("token_refused", issuer.token(**ALL)[:-10]),
        "not one": ("token_refused", "s3cret-but-no-token"),
        "long": ("token_refused", "a." * 5_000),
    }
    for name, (code, token) in bad.items():
        for answer in (get(edge, "/v1/streams/bad/events", token), get(edge, "/metrics", token)):
            assert (answer.status_code, answer.json()["code"]) == (401, code), name
            assert "invalid_token" in answer.headers["www-authenticate"]
            assert token not in answer.text
    assert get(edge, "/v1/streams", issuer.token(**ALL)).status_code == 200
    assert edge.metric("sluicegate_edge_denied_total") >= 2 * len(bad)
    log = edge.log.read_text()
    parts = [part for _, token in bad.values() for part in token.split(".") if len(part) > 15]
    assert len(parts) > 2 * len(bad)
    assert not [part for part in parts if part in log]


def test_a_token_opens_what_its_claims_name_and_nothing_else(world):
    edge, twin, issuer = world.edge, world.twin, world.issuer
    for name, kind in (("build-1", "job"), ("chat-1", "job"), ("build-2", "llm")):
        twin.end(twin.open(name, kind=kind, tenant="acme"))
    twin.end(twin.open("build-1", kind="job", tenant="umbrella"))
    token = issuer.token(tenant="acme", streams=["build-*"], kinds=["job"], scope="subscribe")
    assert read_stream(f"{edge.url}/v1/streams/build-1/events?tenant=acme", headers=bearer(token)).seqs == [
        0,
        1,
    ]
    foreign = {
        "/v1/streams/build-1": "umbrella",
        "/v1/streams/chat-1": "acme",
        "/v1/streams/no-such": "acme",
        "/v1/streams/build-9": "nobody",
    }
    for path, tenant in foreign.items():  # the same answer, whether there is such a stream or not
        for what in ("", "/events", "/rejects"):
            answer = get(edge, f"{path}{what}?tenant={tenant}", token)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (path, what)
            assert answer.json()["title"] == "Not allowed"
    # Of another kind: no status tells it from one that does not exist, the stream itself does.
    assert get(edge, "/v1/streams/build-2?tenant=acme", token).status_code == 404
    for name in ("build-2", "build-none"):
        there = f"{edge.url}/v1/streams/{name}/events?tenant=acme"
        head = httpx2.head(there, headers=bearer(token), trust_env=False, verify=False)
        assert head.status_code == 200
    everything = read_stream(f"{edge.url}/v1/streams/build-2/events?tenant=acme", headers=bearer(edge.token))
    for cursor in ("", everything.ids[0], everything.last_id):
        seen = read_stream(
            f"{edge.url}/v1/streams/build-2/events?tenant=acme", headers=bearer(token), last_id=cursor
        )
        assert [(event["type"], event["code"]) for event in seen.events] == [("refused", "forbidden")]
        assert (seen.status, seen.ids, seen.closed) == (200, ["refused"], True)
    listed = get(edge, "/v1/streams", token).json()["streams"]
    assert [(one["tenant"], one["stream_id"]) for one in listed] == [("acme", "build-1")]
    assert get(edge, "/metrics", token).status_code == get(edge, "/console", token).status_code == 403
    assert post(edge, "/v1/streams/build-1/events?tenant=acme&kind=job", token).status_code == 403
    assert post(edge, "/v1/streams/build-1/cancel?tenant=acme", token).status_code == 403


def test_who_may_publish_may_only_where_and_what_the_claims_say(world):
    edge, twin, issuer = world.edge, world.twin, world.issuer
    twin.open("mine", kind="job")
    token = issuer.token(tenant="default", streams=["mine"], kinds=["job"], scope="publish")
    assert post(edge, "/v1/streams/mine/events", token).status_code == 202
    assert post(edge, "/v1/streams/mine/events?kind=llm", token).status_code == 403
    assert post(edge, "/v1/streams/other/events?kind=job", token).status_code == 403
    other_kind = httpx2.post(
        f"{edge.url}/v1/streams/mine/events?kind=job", trust_env=False, verify=False, headers=bearer(token),
        json={"type": "log", "kind": "log", "payload": {"line": "x"}},
    )  # fmt: skip
    assert other_kind.status_code == 403
    assert post(edge, "/v1/streams/mine/cancel", token).status_code == 202
    assert get(edge, "/v1/streams/mine/events", token).status_code == 403
    assert get(edge, "/v1/streams", token).status_code == 403
    canceller = issuer.token(tenant="default", streams=["mine"], kinds=["job"], scope="subscribe cancel")
    assert post(edge, "/v1/streams/mine/cancel", canceller).status_code == 202
    assert post(edge, "/v1/streams/mine/events", canceller).status_code == 403


def test_a_cursor_of_another_tenant_opens_nothing(world):
    edge, twin, issuer = world.edge, world.twin, world.issuer
    for tenant in ("acme", "umbrella"):
        twin.end(twin.open("cur", kind="job", tenant=tenant))
    theirs = read_stream(f"{edge.url}/v1/streams/cur/events?tenant=umbrella", headers=bearer(edge.token))
    token = issuer.token(**{**ALL, "tenants": ["acme"]})
    refused = read_stream(
        f"{edge.url}/v1/streams/cur/events?tenant=acme", headers=bearer(token), last_id=theirs.ids[0]
    )
    assert [event["code"] for event in refused.events] == ["foreign_cursor"]
    for cursor in (theirs.ids[0], theirs.last_id):
        answer = get(edge, f"/v1/streams/cur/events?tenant=umbrella&last_event_id={cursor}", token)
        assert answer.status_code == 403
        assert (
            get(edge, "/v1/streams/cur/events?tenant=umbrella", token, last_event_id=cursor).status_code
            == 403
        )


def test_keys_of_an_issuer_are_rotated_and_those_that_are_known_outlive_its_absence(make_edge, twin, issuer):
    old, new = issuer, Issuer("k2")
    with jwks_server(old) as served:
        edge = make_edge(access={"jwks_url": served.url, "issuer": ISSUER, "keys_retry_ms": 300})
        assert get(edge, "/v1/streams", old.token(**ALL)).status_code == 200
        # However many tokens with made-up keys come, the issuer is asked once in a while.
        asked, began_s = served.asked, time.monotonic()
        for number in range(40):
            assert get(edge, "/v1/streams", Issuer(f"x{number}", old.private).token(**ALL)).status_code == 401
        assert served.asked - asked <= (time.monotonic() - began_s) / 0.3 + 2
        assert get(edge, "/v1/streams", new.token(**ALL)).status_code == 401
        served.keys.append(new.jwk)
        until(lambda: get(edge, "/v1/streams", new.token(**ALL)).status_code == 200)
        served.away = True
        # It may be a key that was rotated in meanwhile: nobody is turned away for good.
        until(lambda: get(edge, "/v1/streams", Issuer("k3").token(**ALL)).status_code == 503)
        assert get(edge, "/v1/streams", old.token(**ALL)).status_code == 200
        served.away = False
        served.keys.pop(0)
        until(lambda: get(edge, "/v1/streams", Issuer("k4").token(**ALL)).status_code == 401
               and get(edge, "/v1/streams", old.token(**ALL)).status_code == 401)  # fmt: skip
        assert get(edge, "/v1/streams", new.token(**ALL)).status_code == 200


def test_an_edge_whose_issuer_is_away_from_the_start_says_so_and_lets_in_who_comes_once_it_is_there(
    make_edge, twin, issuer
):
    twin.open("s", kind="job")
    with jwks_server(issuer) as served:
        served.away = True
        edge = make_edge(ready=False, access={"jwks_url": served.url, "issuer": ISSUER, "keys_retry_ms": 200})
        edge.wait_for("/readyz", 503)
        token = issuer.token(**ALL)
        until(lambda: get(edge, "/v1/streams", token).json().get("code") == "keys_unavailable")
        assert get(edge, "/v1/streams", token).headers["retry-after"] == "2"
        until(lambda: "keys" in [one["cause"] for one in get(edge, "/readyz").json().get("causes", [])])
        seen = read_stream(f"{edge.url}/v1/streams/s/events", headers=bearer(token))
        assert (seen.status, seen.events[-1]["type"], seen.events[-1]["reason"]) == (
            200,
            "reconnect",
            "unready",
        )
        served.away = False
        edge.wait_for("/readyz")
        assert get(edge, "/v1/streams", token).status_code == 200


def test_a_keys_file_is_read_again_when_it_changes_and_a_broken_one_changes_nothing(
    guarded, issuer, twin, tmp_path
):
    edge = guarded(access={"file_look_ms": 100})
    new = Issuer("k2")
    file = tmp_path / "keys.json"
    file.write_text("{")
    assert get(edge, "/v1/streams", issuer.token(**ALL)).status_code == 200
    file.write_bytes(new.pem)
    until(lambda: get(edge, "/v1/streams", new.token(**ALL)).status_code == 200)
    assert get(edge, "/v1/streams", issuer.token(**ALL)).status_code == 401


def test_a_cookie_counts_only_with_an_origin_that_is_ours(world):
    edge, twin, issuer = world.edge, world.twin, world.issuer
    twin.end(twin.open("coo", kind="job"))
    cookie = {"cookie": f"theme=dark; sluice={issuer.token(**ALL)}"}
    events = f"{edge.url}/v1/streams/coo/events"

    def status(**headers: str) -> int:
        return httpx2.get(
            events,
            headers={**cookie, **{n.replace("_", "-"): v for n, v in headers.items()}},
            trust_env=False,
            verify=False,
        ).status_code

    assert status(origin=edge.url) == 200
    assert status(origin="https://app.test") == 200
    assert status(sec_fetch_site="same-origin") == 200
    assert status() == 403
    assert status(origin="https://evil.test") == 403
    assert status(origin="null") == 403
    assert status(sec_fetch_site="cross-site") == status(sec_fetch_site="same-site") == 403
    publish = "/v1/streams/coo2/events?kind=job"
    assert post(edge, publish, **cookie).status_code == 403
    assert post(edge, publish, **cookie, **{"sec-fetch-site": "same-origin"}).status_code == 403
    assert post(edge, publish, **cookie, origin=edge.url).status_code == 202
    # The header goes first, and needs no origin.
    assert get(edge, "/v1/streams", "no-token", **cookie).status_code == 401


def test_a_token_in_the_query_is_taken_only_if_it_is_switched_on_and_stands_in_no_log(
    world, guarded, issuer, twin
):
    off = world.issuer.token(**ALL)
    assert get(world.edge, f"/v1/streams?access_token={off}").json()["code"] == "no_token"
    twin.end(twin.open("s", kind="job"))
    edge, token = guarded(access={"query_token": True}), issuer.token(**ALL)
    seen = read_stream(
        f"{edge.url}/v1/streams/s/events?access_token={token}", headers={"origin": "https://app.test"}
    )
    assert seen.seqs == [0, 1]
    assert not [name for name in seen.headers if name.startswith("access-control")]  # no site is named here
    assert get(edge, f"/v1/nothing/here?access_token={token}").status_code == 404
    assert token not in get(edge, f"/v1/streams?limit=x&access_token={token}").text
    assert token not in edge.log.read_text()


def test_pages_of_the_sites_that_are_named_may_use_the_edge_and_others_may_not(world):
    edge, twin = world.edge, world.twin
    twin.end(twin.open("page", kind="job"))

    def preflight(path: str, method: str, headers: str, origin: str = "https://app.test") -> httpx2.Response:
        asked = {"access-control-request-method": method, "access-control-request-headers": headers}
        return httpx2.options(
            edge.url + path, headers={"origin": origin, **asked}, trust_env=False, verify=False
        )

    for path, method, headers in (
        ("/v1/streams/page/events", "GET", "authorization,last-event-id,cache-control"),
        ("/v1/streams/page/events", "POST", "authorization,content-type"),
        ("/v1/streams/page/cancel", "POST", "authorization,content-type"),
    ):
        answer = preflight(path, method, headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.test"
        allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
        assert set(headers.split(",")) <= set(allowed)
        assert method in answer.headers["access-control-allow-methods"]
    assert preflight("/v1/streams/page/events", "DELETE", "").status_code == 400
    evil = preflight("/v1/streams/page/events", "GET", "authorization", "https://evil.test")
    assert "access-control-allow-origin" not in evil.headers

    origin = {"origin": "https://app.test"}
    seen = read_stream(f"{edge.url}/v1/streams/page/events", headers={**bearer(edge.token), **origin})
    assert seen.headers["access-control-allow-origin"] == "https://app.test"
    assert (seen.headers["vary"], seen.seqs) == ("Origin", [0, 1])
    assert seen.headers["access-control-allow-credentials"] == "true"  # this edge takes cookies
    over = read_stream(
        f"{edge.url}/v1/streams/page/events", headers={**bearer(edge.token), **origin}, last_id=seen.last_id
    )
    assert (over.status, over.headers["access-control-allow-origin"]) == (204, "https://app.test")
    # A page must be able to read why it is not let in.
    assert get(edge, "/v1/streams", **origin).headers["access-control-allow-origin"] == "https://app.test"
    assert post(edge, "/v1/streams/page2/events?kind=job", edge.token, **origin).status_code == 202
    strange = post(edge, "/v1/streams/page2/events?kind=job", edge.token, origin="https://evil.test")
    assert strange.status_code == 403
    seen = read_stream(
        f"{edge.url}/v1/streams/page/events", headers={**bearer(edge.token), "origin": "https://evil.test"}
    )
    assert "access-control-allow-origin" not in seen.headers


def test_a_tenant_has_its_share_of_connections_and_events_and_others_have_theirs(guarded, issuer, twin):
    streams = {tenant: twin.open("s", kind="job", tenant=tenant) for tenant in ("acme", "umbrella")}
    edge = guarded(tenant_connections_max=1, tenant_events_per_s_max=1, request_events_max=5)
    url = f"{edge.url}/v1/streams/s/events?tenant="
    headers, leave = bearer(edge.token), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(
            read_stream, f"{url}acme", headers=headers, until=lambda seen: seen.comments > 0 or leave.is_set()
        )
        wait_for_connections(edge, 1)
        refused = read_stream(f"{url}acme", headers=headers)
        assert (refused.events[0]["type"], refused.events[0]["reason"]) == ("reconnect", "overload")
        other = read_stream(f"{url}umbrella", headers=headers, until=lambda seen: bool(seen.events))
        assert other.seqs == [0]
        with Talk(edge.url, additional_headers=headers) as talk:  # under a token of all tenants
            full = talk.ask("subscribe", id=1, stream="s", tenant="acme")
            assert (full["code"], full["status"]) == ("too_many_connections", 503)
            assert talk.ask("subscribe", id=2, stream="s", tenant="third")["type"] == "subscribed"
        leave.set()
        twin.logs(streams["acme"], 1)
        held.result()
    wait_for_connections(edge, 0)
    assert read_stream(f"{url}acme", headers=headers, until=lambda seen: bool(seen.events)).seqs == [0]

    def publish(tenant: str, count: int) -> httpx2.Response:
        lines = "".join(
            json.dumps({"type": "log", "kind": "job", "payload": {"line": "x"}}) + "\n" for _ in range(count)
        )
        return httpx2.post(
            f"{edge.url}/v1/streams/p/events?tenant={tenant}", content=lines, trust_env=False, verify=False,
            headers={**headers, "content-type": "application/x-ndjson"},
        )  # fmt: skip

    assert publish("acme", 5).status_code == 202
    full = publish("acme", 5)
    assert (full.status_code, full.json()["title"]) == (429, "Too many events")
    assert 1 <= int(full.headers["retry-after"]) <= 5
    assert publish("umbrella", 5).status_code == 202
    text = get(edge, "/metrics", edge.token).text
    for limit, times in (("tenant_connections", 2), ("tenant_events", 1)):
        assert f'sluicegate_edge_limited_total{{limit="{limit}",tenant="acme"}} {times}.0' in text
    assert 'tenant="umbrella"' not in text


# ------------------------------------------------------------------ heads


def test_a_head_that_is_too_large_or_has_too_many_lines_is_refused_before_it_is_all_there(world):
    head = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    many = head + "".join(f"x-{number}: y\r\n" for number in range(200)) + "\r\n"
    endless = head + f"authorization: Bearer {'a' * 100_000}"
    folded = head + "x: " + "y" * 20_000 + "\r\n\r\n"
    for text in (many, endless, folded):
        with socket.create_connection(("127.0.0.1", world.edge.port)) as client:
            client.sendall(text.encode())
            assert _all_of(client).startswith(b"HTTP/1.1 431 ")
    assert "aaaaaaaaaa" not in world.edge.log.read_text()
    assert httpx2.get(f"{world.edge.url}/healthz", trust_env=False, verify=False).status_code == 200


def test_a_head_that_drips_in_is_given_up(world):
    with socket.create_connection(("127.0.0.1", world.edge.port)) as client:
        client.settimeout(30)
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        answer = b""
        while not answer:
            with suppress(OSError):
                client.sendall(b"x: y\r\n")
            time.sleep(0.2)
            with suppress(TimeoutError):
                client.settimeout(0.05)
                answer = client.recv(1_000)
        assert answer.startswith(b"HTTP/1.1 408 ")


def _all_of(client: socket.socket) -> bytes:
    client.settimeout(30)
    answer = b""
    with suppress(ConnectionResetError):  # it does not read on while we send
        while part := client.recv(4_096):
            answer += part
    return answer


# ------------------------------------------------------------------ as a newcomer does it


def test_the_first_day_of_the_page_works_as_it_is_written(stack, kafka_options, topics, tmp_path):
    topics(*EDGE_TOPICS)
    with CommandLine(tmp_path, stack, kafka_options) as line:
        code, out, err = line.run("tokens", "issue", "--scope", "publish", "--scope", "subscribe")
        assert (code, len(out.split())) == (0, 1), err
        token, keys = out.strip(), tmp_path / "data" / "access" / "keys.json"
        assert str(keys) in err
        assert (keys.with_name("signing.pem").stat().st_mode & 0o777) == 0o600
        line.environment |= {"SLUICEGATE_ACCESS__KEYS_FILE": str(keys), "SLUICEGATE_EDGE__HOST": "0.0.0.0"}
        process = line.start("edge", log="edge")
        address = tmp_path / "data" / "edge.json"
        until(lambda: address.exists() or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "edge.log").read_text()
        url = json.loads(address.read_text())["url"]
        until(lambda: httpx2.get(f"{url}/readyz", trust_env=False, verify=False).status_code == 200)

        events = tmp_path / "events.ndjson"
        events.write_text('{"type": "open", "kind": "job", "payload": {}}\n')
        code, _, err = line.run("publish", "--stream", "mine", str(events))
        assert (code, "SLUICEGATE_EDGE__TOKEN" in err) == (1, True)
        line.environment["SLUICEGATE_EDGE__TOKEN"] = token
        code, out, err = line.run("publish", "--stream", "mine", str(events))
        assert code == 0, err
        assert token not in out + err + (tmp_path / "edge.log").read_text()
        # Another of the same key; what it does not name is not allowed.
        code, out, err = line.run("tokens", "issue", "--streams", "other-*", "--json")
        line.environment["SLUICEGATE_EDGE__TOKEN"] = json.loads(out)["token"]
        code, _, err = line.run("publish", "--stream", "mine", str(events))
        assert (code, "may not publish to default/mine" in err) == (1, True)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ACCESS__JWKS_URL", "https://issuer.test/jwks", "needs access.issuer"),
        ("ACCESS__KEYS_FILE", "/nowhere/keys.pem", "cannot be read"),
        ("EDGE__HOST", "0.0.0.0", "without keys"),
        ("EDGE__CORS_ORIGINS", "https://app.test/path", "is no origin"),
        ("EDGE__CORS_ORIGINS", "*", "pages of all sites"),
        ("EDGE__TRUSTED_PROXIES", "proxy.example", "does not appear to be"),
    ],
)
def test_an_edge_that_could_not_be_kept_does_not_start_and_says_why(
    stack, kafka_options, tmp_path, name, value, told
):
    with CommandLine(tmp_path, stack, kafka_options) as line:
        line.environment[f"SLUICEGATE_{name}"] = value
        code, _, err = line.run("edge")
        assert code in (1, 2)
        assert told in " ".join(err.split())
