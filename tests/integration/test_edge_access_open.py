"""What is open when a token ends, is renewed, or is taken back: the same over every transport."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from queue import Queue
from typing import TYPE_CHECKING, Any

import grpc
import httpx2
import pytest
from grpc import StatusCode
from websockets.exceptions import InvalidStatus

from connectors.registry import Registry
from schemas.proto.sluicegate.v1.logs_pb2 import LogRequest
from schemas.proto.sluicegate.v1.logs_pb2_grpc import LogStreamStub
from schemas.proto.sluicegate.v1.stream_pb2 import NewEvent, PublishRequest, WatchRequest
from schemas.proto.sluicegate.v1.stream_pb2_grpc import StreamServiceStub
from schemas.topics import AUDIT, REVOCATIONS
from schemas.wire import WireCodec
from tests.support.access_world import bearer, get, post, until, wait_for_connections, world
from tests.support.command_line import CommandLine
from tests.support.grpc_client import TIMEOUT_S, Watched, failure_of, read_call
from tests.support.read_topic import read_committed
from tests.support.sse_client import Seen, read_stream
from tests.support.tokens import ALL, Issuer
from tests.support.ws_client import Talk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ops.stack.addresses import Addresses
    from tests.support.access_world import World

__all__ = ["world"]
pytestmark = pytest.mark.timeout(120)


def test_a_stream_that_opens_later_is_judged_by_its_kind_before_its_first_event(world):
    edge, twin, issuer = world.edge, world.twin, world.issuer
    token = issuer.token(**{**ALL, "kinds": ["job"]})

    def follow(name: str) -> Seen:
        return read_stream(f"{edge.url}/v1/streams/{name}/events", headers=bearer(token))

    with ThreadPoolExecutor(2) as pool:
        wanted, unwanted = pool.submit(follow, "later-job"), pool.submit(follow, "later-llm")
        wait_for_connections(edge, 2)
        for kind in ("job", "llm"):
            stream = twin.open(f"later-{kind}", kind=kind)
            twin.logs(stream, 3)
            twin.end(stream)
        assert wanted.result().seqs == [0, 1, 2, 3, 4]
        seen = unwanted.result()
    assert [(event["type"], event["code"]) for event in seen.events] == [("refused", "forbidden")]
    assert (seen.ids, seen.closed) == (["refused"], True)
    # What a native client does next, and what stops it for good.
    retry = read_stream(f"{edge.url}/v1/streams/later-llm/events", headers=bearer(token), last_id="refused")
    assert retry.status == 204


def test_a_token_that_ends_is_warned_of_then_the_client_is_sent_for_a_new_one_and_loses_nothing(world):
    edge, twin, issuer = world.edge, world.twin, world.issuer
    stream = twin.open("exp", kind="job")
    token = issuer.token(life_s=4, **ALL)
    seen = read_stream(f"{edge.url}/v1/streams/exp/events", headers=bearer(token))
    types = [event["type"] for event in seen.events]
    assert types == ["open", "expiring", "reconnect"]
    assert 0 < seen.events[1]["expires_in_ms"] <= 2_500
    assert (seen.events[2]["reason"], seen.closed, seen.ids[1:]) == ("expired", True, ["", ""])
    assert get(edge, "/v1/streams/exp/events", token).json()["code"] == "token_expired"
    twin.logs(stream, 2)
    twin.end(stream)
    again = read_stream(
        f"{edge.url}/v1/streams/exp/events", headers=bearer(issuer.token(**ALL)), last_id=seen.last_id
    )
    assert again.seqs == [1, 2, 3]


def test_over_grpc_a_watch_goes_on_with_a_new_token_and_its_cursor_and_lines_end_for_want_of_one(world):
    stream = world.twin.open("exp-grpc", kind="job")
    world.twin.logs(stream, 1)
    with grpc.insecure_channel(world.grpc_target) as channel, ThreadPoolExecutor(1) as pool:

        def watch(token: str, cursor: str = "") -> Watched:
            asked = WatchRequest(stream_id="exp-grpc", cursor=cursor)
            return read_call(StreamServiceStub(channel).Watch(asked, **called(token)))

        def lines(token: str) -> list[str]:
            found = LogStreamStub(channel).WatchLogs(LogRequest(job_id="exp-grpc"), **called(token))
            return [event.line for event in found if not event.done]

        short, good = world.issuer.token(life_s=4, **ALL), world.issuer.token(**ALL)
        no_lines = pool.submit(failure_of, lambda: lines(short))
        seen = watch(short)
        assert [notice.WhichOneof("notice") for notice in seen.notices] == ["expiring", "reconnect"]
        assert (seen.seqs, seen.code, seen.problem.code) == ([0, 1], StatusCode.UNAVAILABLE, "expired")
        over = StatusCode.UNAUTHENTICATED, "token_expired", -1
        for ended in (no_lines.result(), watch(short, seen.cursors[-1])):
            assert (ended.code, ended.problem.code, ended.pushback_ms) == over
        world.twin.logs(stream, 2)
        world.twin.end(stream)
        assert watch(good, seen.cursors[-1]).seqs == [2, 3, 4]
        assert lines(good) == ["line 1", "line 2", "line 3"]  # it has no cursor, and begins anew


def called(token: str) -> dict[str, Any]:
    """How a call with a token is made."""
    return {"metadata": list(bearer(token).items()), "timeout": TIMEOUT_S}


# ------------------------------------------------------------------ taken back


@pytest.fixture
def command(world: World, stack: Addresses, tmp_path: Path) -> Iterator[CommandLine]:
    with CommandLine(tmp_path, stack, world.kafka) as line:
        yield line


def test_a_token_that_is_revoked_is_closed_at_once_wherever_it_is_in_use_and_taken_nowhere(world, command):
    edge, twin, issuer = world.edge, world.twin, world.issuer
    stream = twin.open("taken", kind="job")
    stolen, good = (issuer.token(**ALL, jti=jti) for jti in ("j-stolen", "j-good"))
    url = f"{edge.url}/v1/streams/taken/events"
    with grpc.insecure_channel(world.grpc_target) as channel, ThreadPoolExecutor(4) as pool:
        closed = pool.submit(read_stream, url, headers=bearer(stolen))
        kept = pool.submit(read_stream, url, headers=bearer(good))
        watch = StreamServiceStub(channel).Watch(WatchRequest(stream_id="taken"), **called(stolen))
        watched = pool.submit(read_call, watch)
        lines = LogStreamStub(channel).WatchLogs(LogRequest(job_id="taken"), **called(stolen))
        no_lines = pool.submit(failure_of, lambda: list(lines))
        wait_for_connections(edge, 4)
        command.environment["SLUICEGATE_EDGE__URL"] = edge.url
        assert command.run("connections")[0] == 1
        command.environment["SLUICEGATE_EDGE__TOKEN"] = edge.token
        code, out, err = command.run("connections", "--json")
        assert ([one["subject"] for one in json.loads(out)["connections"]], code) == (["ann"] * 4, 0), err
        code, out, err = command.run("tokens", "revoke", "j-stolen", "--reason", "laptop lost")
        assert (code, "would be revoked" in out, "dry run" in err) == (0, True, True)
        assert get(edge, "/v1/streams", stolen).status_code == 200
        code, out, err = command.run("tokens", "revoke", "j-stolen", "--yes")
        assert (code, "--reason" in err) == (2, True)
        code, out, err = command.run("tokens", "revoke", "j-stolen", "--reason", "laptop lost", "--yes")
        assert (code, "jti:j-stolen: revoked" in out) == (0, True), err
        seen = closed.result()
        assert (seen.events[-1]["type"], seen.events[-1]["reason"]) == ("reconnect", "revoked")
        assert watched.result().notices[-1].reconnect.reason == "revoked"
        assert watched.result().code is StatusCode.UNAVAILABLE
        ended = no_lines.result()
        assert (ended.code, ended.problem.code) == (StatusCode.UNAUTHENTICATED, "token_revoked")
        assert get(edge, "/v1/streams/taken/events", stolen).json()["code"] == "token_revoked"
        assert post(edge, "/v1/streams/taken/events", stolen).status_code == 401
        twin.end(stream)
        assert kept.result().seqs == [0, 1]
    assert 'reason="revoked",transport="sse"} 1.0' in get(edge, "/metrics", edge.token).text

    code, out, _ = command.run("tokens", "list", "--json")
    (row,) = json.loads(out)["revoked"]
    assert (row["what"], row["why"]) == ("jti:j-stolen", "laptop lost")
    code, out, err = command.run("tokens", "revoke", "j-stolen", "--undo", "--yes")
    assert (code, "made good again" in out) == (0, True), err
    until(lambda: get(edge, "/v1/streams", stolen).status_code == 200)
    audit = [message.value() for message in read_committed(world.kafka, AUDIT, 2)]
    assert [b"undo tokens revoke" in (value or b"") for value in audit] == [False, True]


def test_all_that_a_subject_was_given_until_now_is_revoked_and_what_it_is_given_later_is_good(world, command):
    edge, issuer = world.edge, world.issuer
    before = issuer.token(**ALL, sub="bob", iat=time.time() - 5)
    assert get(edge, "/v1/streams", before).status_code == 200
    words = (
        "tokens",
        "revoke",
        "bob",
        "--subject",
        "--reason",
        "left",
        "--until",
        "2099-01-01T00:00:00Z",
        "--yes",
    )
    code, _, err = command.run(*words)
    assert code == 0, err
    until(lambda: get(edge, "/v1/streams", before).status_code == 401)
    assert get(edge, "/v1/streams", issuer.token(**ALL, sub="bob", iat=None)).status_code == 401
    assert get(edge, "/v1/streams", issuer.token(**ALL, sub="ann")).status_code == 200
    time.sleep(1.1)  # iat counts whole seconds
    assert get(edge, "/v1/streams", issuer.token(**ALL, sub="bob")).status_code == 200


def test_an_edge_that_starts_knows_what_was_revoked_before_it_lets_anybody_in(world):
    edge, issuer = world.edge, world.issuer
    token = issuer.token(**ALL, jti="j-before")
    with closing(Registry(edge.registry_url)) as registry:
        value = WireCodec(registry).encode(REVOCATIONS.subject, {"what": "jti", "name": "j-before"})
    world.twin.raw(REVOCATIONS.name, b"jti:j-before", value)
    world.twin.raw(REVOCATIONS.name, b"jti:j-broken", b"\x00\x00\x00\x00\x09")
    until(lambda: get(edge, "/v1/streams", token).status_code == 401)
    edge.kill()
    edge.start(ready=False)
    statuses = {get(edge, "/v1/streams", token).status_code for _ in range(20)}
    edge.wait_for("/readyz")
    statuses.add(get(edge, "/v1/streams", token).status_code)
    assert statuses <= {401, 503}
    # What cannot be read is taken to hold.
    assert get(edge, "/v1/streams", issuer.token(**ALL, jti="j-broken")).status_code == 401


# ------------------------------------------------------------------ WebSocket


def talk(world: World, token: str, **options: Any) -> Talk:
    return Talk(world.edge.url, additional_headers=bearer(token), **options)


def test_a_websocket_without_a_good_token_is_not_opened_and_one_with_it_is_given_what_its_claims_name(world):
    for headers, status in (({}, 401), (bearer("x.y.z"), 401)):
        with pytest.raises(InvalidStatus) as refused:
            Talk(world.edge.url, additional_headers=headers)
        assert refused.value.response.status_code == status
    foreign, mine = world.twin.open("ws-foreign", kind="llm"), world.twin.open("ws-mine", kind="job")
    token = world.issuer.token(tenant="default", streams=["ws-*"], kinds=["job"], scope="subscribe")
    with talk(world, token) as talking:
        for number, place in enumerate(({"stream": "other"}, {"stream": "ws-mine", "tenant": "acme"})):
            answer = talking.ask("subscribe", id=number, **place)
            assert (answer["type"], answer["code"]) == ("refused", "forbidden")
            assert answer.items() >= place.items()
        assert talking.ask("subscribe", id=3, stream="ws-foreign")["type"] == "subscribed"
        assert talking.hear("refused")["code"] == "forbidden"  # its kind, before its first event
        event = {"type": "log", "payload": {"line": "x"}}
        assert talking.ask("publish", id=4, stream="ws-mine", events=[event])["code"] == "forbidden"
        assert talking.ask("cancel", id=5, stream="ws-mine")["code"] == "forbidden"
        assert talking.ask("subscribe", id=6, stream="ws-mine")["type"] == "subscribed"
        for stream in (foreign, mine):
            world.twin.end(stream)
        talking.until_type("ended")
        assert (talking.seqs("ws-mine"), talking.seqs("ws-foreign")) == ([0, 1], [])


def test_a_websocket_goes_on_with_a_new_token_and_ends_with_its_last(world):
    stream = world.twin.open("ws-long", kind="job")
    with talk(world, world.issuer.token(life_s=3, **ALL)) as talking:
        talking.ask("subscribe", id=1, stream="ws-long")
        talking.until_type("expiring")
        assert talking.ask("auth", id=2, token=Issuer().token(**ALL))["code"] == "token_refused"
        assert talking.ask("auth", id=3, token=world.issuer.token(life_s=5, **ALL))["type"] == "auth_ack"
        time.sleep(3)
        world.twin.logs(stream, 2)
        assert talking.until_type("reconnect")["reason"] == "expired"
        talking.closed()
        assert talking.seqs("ws-long") == [0, 1, 2]
    world.twin.end(stream)


def test_a_stream_that_was_asked_for_under_a_broader_token_is_not_kept_under_a_narrower_one(world):
    stream = world.twin.open("ws-broad", kind="job")
    narrow = world.issuer.token(**{**ALL, "streams": ["other"]})
    with talk(world, world.issuer.token(**ALL)) as talking:
        # Both at once, so that the new token comes while the stream is still looked for.
        talking.say("subscribe", id=1, stream="ws-broad")
        talking.say("auth", id=2, token=narrow)
        found: set[str] = set()
        while found != {"auth_ack", "forbidden"}:  # in either order: before it began, or after
            message = talking.next()
            found |= {message["type"], message.get("code", "")} & {"auth_ack", "forbidden"}
        world.twin.end(stream)
        talking.ask("ping", id=4)
    assert 1 not in talking.seqs("ws-broad")


def test_a_websocket_of_a_revoked_token_is_closed(world, command):
    token = world.issuer.token(**ALL, jti="j-ws")
    with talk(world, token) as talking:
        code, _, err = command.run("tokens", "revoke", "j-ws", "--reason", "test", "--yes")
        assert code == 0, err
        assert talking.until_type("reconnect")["reason"] == "revoked"
        talking.closed()
    with pytest.raises(InvalidStatus):
        talk(world, token)


# ------------------------------------------------------------------ gRPC


@contextmanager
def calling(world: World) -> Iterator[Any]:
    with grpc.insecure_channel(world.grpc_target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield StreamServiceStub(channel)  # type: ignore[no-untyped-call]


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def refused_as(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    code: grpc.StatusCode = error.value.code()
    return code


def test_a_call_without_a_good_token_is_refused_and_one_with_it_is_given_what_its_claims_name(world):
    for name, kind in (("grpc-mine", "job"), ("grpc-llm", "llm")):
        world.twin.end(world.twin.open(name, kind=kind))
    token = world.issuer.token(tenant="default", streams=["grpc-*"], kinds=["job"], scope="subscribe")
    with calling(world) as service:

        def watch(stream: str, *, tenant: str = "", token: str = token) -> Any:
            return service.Watch(
                WatchRequest(stream_id=stream, tenant=tenant), metadata=metadata(token) if token else ()
            )

        assert refused_as(watch("grpc-mine", token="")) == grpc.StatusCode.UNAUTHENTICATED
        assert refused_as(watch("grpc-mine", token="x.y.z")) == grpc.StatusCode.UNAUTHENTICATED
        for stream, tenant in (("other", ""), ("grpc-mine", "acme"), ("grpc-llm", "")):
            assert refused_as(watch(stream, tenant=tenant)) == grpc.StatusCode.PERMISSION_DENIED
        assert [event.seq for one in watch("grpc-mine") for event in one.events] == [0, 1]
        with pytest.raises(grpc.RpcError) as error:
            service.Publish(PublishRequest(stream_id="grpc-mine"), metadata=metadata(token))
        assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert token not in str(error.value.details())


def test_calls_of_a_token_that_ends_or_is_revoked_end_too(world, command):
    world.twin.open("grpc-long", kind="job")
    ends, taken = world.issuer.token(life_s=3, **ALL), world.issuer.token(**ALL, jti="j-grpc")
    with calling(world) as service, ThreadPoolExecutor(2) as pool:
        request = WatchRequest(stream_id="grpc-long")
        ended = pool.submit(refused_as, service.Watch(request, metadata=metadata(ends), timeout=60))
        revoked = pool.submit(refused_as, service.Watch(request, metadata=metadata(taken), timeout=60))
        more: Queue[PublishRequest | None] = Queue()
        many = service.PublishMany(iter(more.get, None), metadata=metadata(taken), timeout=60)
        event = NewEvent(type="log", event_id="g1", json='{"line": "x"}')
        more.put(PublishRequest(stream_id="grpc-long", kind="job", events=[event]))
        assert [at.event_id for at in next(many).events] == ["g1"]
        code, _, err = command.run("tokens", "revoke", "j-grpc", "--reason", "test", "--yes")
        assert code == 0, err
        assert ended.result() == grpc.StatusCode.UNAVAILABLE
        assert revoked.result() == grpc.StatusCode.UNAVAILABLE
        more.put(PublishRequest(stream_id="grpc-long", kind="job", events=[event]))
        assert refused_as(many) == grpc.StatusCode.UNAUTHENTICATED
        more.put(None)
        assert refused_as(service.Watch(request, metadata=metadata(taken))) == grpc.StatusCode.UNAUTHENTICATED


# ------------------------------------------------------------------ several processes


def test_every_process_of_an_edge_asks_for_a_token_knows_what_was_revoked_and_tells_all_metrics_to_one(
    world, command
):
    access = world.edge.options["access"]
    command.environment |= {
        "SLUICEGATE_ACCESS__KEYS_FILE": access["keys_file"],
        "SLUICEGATE_ACCESS__ISSUER": access["issuer"],
        "SLUICEGATE_EDGE__GRPC_PORT": "-1",
    }
    process = command.start("edge", "--processes", "2", log="edges")
    address = command.folder / "data" / "edge.json"
    until(lambda: address.exists() or process.poll() is not None)
    assert process.poll() is None, (command.folder / "edges.log").read_text()
    url = json.loads(address.read_text())["url"]
    token = world.issuer.token(**ALL, jti="j-many")

    def statuses(token: str) -> set[int]:
        """Of as many connections as it takes to come to both processes; 0 while one does not listen yet."""
        headers, found = bearer(token) if token else {}, set()
        for _ in range(16):
            try:
                found.add(
                    httpx2.get(
                        f"{url}/v1/streams", trust_env=False, verify=False, headers=headers
                    ).status_code
                )
            except httpx2.TransportError:
                found.add(0)
        return found

    until(lambda: statuses(token) == {200})
    assert statuses("") == {401}
    text = httpx2.get(f"{url}/metrics", trust_env=False, verify=False, headers=bearer(token)).text
    assert len(set(re.findall(r'sluicegate_edge_token_keys\{process="(\w+)"\} 1\.0', text))) == 2
    code, _, err = command.run("tokens", "revoke", "j-many", "--reason", "test", "--yes")
    assert code == 0, err
    until(lambda: statuses(token) == {401})
