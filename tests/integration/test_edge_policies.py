"""The policies of backpressure on real sockets of each transport, at one edge with kinds of its own.

All clients fall behind at once, before the first test: to fill what the kernel and gRPC hold for each takes a
megabyte and some seconds. Each test goes on with the one that is its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import httpx2
import pytest

from schemas.proto.sluicegate.v1.stream_pb2 import NewEvent, PublishRequest
from schemas.topics import CONNECTIONS, INPUT
from schemas.wire import WireCodec
from tests.support.grpc_client import GrpcEdge
from tests.support.read_topic import read_committed
from tests.support.slow_clients import (
    DEADLINE_S,
    TRANSPORTS,
    SlowCall,
    SlowSse,
    SlowWebSocket,
    connections_of,
    until,
)
from tests.support.stage import stage
from tests.support.ws_client import Talk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.edge_process import EdgeProcess
    from tests.support.ingest_twin import TwinStream
    from tests.support.slow_clients import Said, SlowClient
    from tests.support.stage import Stage

__all__ = ["stage"]  # a fixture
pytestmark = pytest.mark.timeout(240)
BOUND = 10
LINES = [("log", {"line": "x" * 20_000})] * 30


def kind(policy: str, then: str = "", stall_ms_max: int = 0) -> dict[str, dict[str, object]]:
    return {
        "backpressure": {
            "policy": policy, "then": then or policy, "stall_ms_max": stall_ms_max,
            "behind_events_max": BOUND, "behind_bytes_max": 64 << 20,
        }
    }  # fmt: skip


POLICIES = {
    "drop_old": kind("drop_old"),
    "drop_new": kind("drop_new"),
    "terminate": kind("terminate"),
    "slow_producer": kind("slow_producer", "drop_old", 600_000),
    "slow_then_drop_old": kind("slow_producer", "drop_old", 1_000),
    "slow_then_drop_new": kind("slow_producer", "drop_new", 1_000),
    "slow_then_terminate": kind("slow_producer", "terminate", 1_000),
}
KINDS = {
    **POLICIES,
    "one_of_many": kind("terminate"),
    "brief": {"connection": {"connection_life_ms_max": 1_500, "drain_ms": 1_000}},
}
PUBLISHED = "sluicegate_edge_published_events_total"
each_transport = pytest.mark.parametrize("transport", TRANSPORTS, ids=lambda one: one.transport)


class Fallen(NamedTuple):
    """A client that is behind its bound, and its stream."""

    client: SlowClient
    stream: TwinStream

    @property
    def last(self) -> int:
        """Seq of the stream's last event."""
        return self.stream.next_seq - 1


Everybody = dict[tuple[str, type], Fallen]


@pytest.fixture(scope="module")
def edge(stage: Stage) -> EdgeProcess:
    # They are to be found slow before they are given up as gone.
    return stage.edge(kinds=KINDS, write_stall_ms_max=300_000)


@pytest.fixture(scope="module")
def fallen(stage: Stage, edge: EdgeProcess) -> Iterator[Everybody]:
    everybody: Everybody = {}
    for policy in POLICIES:
        for transport in TRANSPORTS:
            stream = stage.twin.open(f"{policy}-{transport.transport}", kind=policy)
            client = transport(edge, stream.stream_id)
            assert client.next()["seq"] == 0
            everybody[policy, transport] = Fallen(client, stream)
    until(lambda: all(one["state"] == "abreast" for one in connections_of(edge)))
    rest, seqs = list(everybody.values()), dict[str, int]()
    while rest:
        for one in rest:
            stage.twin.write(one.stream, LINES)
        shown = until(lambda rest=rest: all_read(edge, rest))
        rest = [one for one in rest if not is_stuck(shown.get(one.stream.stream_id), seqs)]
        seqs = {name: at["seq"] for name, at in shown.items()}
    yield everybody
    for one in everybody.values():
        one.client.close()


def all_read(edge: EdgeProcess, clients: list[Fallen]) -> dict[str, Said] | None:
    """How clients stand to their streams, by stream, when the edge has read all of these.

    One that was let go follows no more, and is not there any more once it was told.
    """
    shown = {one["stream_id"]: one for one in connections_of(edge)}
    for one in clients:
        at = shown.get(one.stream.stream_id)
        let_go = at is None or (at["kind"].endswith("terminate") and is_over(at))
        if not let_go and at["seq"] + at["events_behind"] != one.last:
            return None
    return shown


def is_stuck(at: Said | None, seqs: dict[str, int]) -> bool:
    """Whether a client takes nothing more: it does not for a moment whenever much comes at once."""
    if at is None:
        return True
    assert at["transport"] == at["stream_id"].partition("-")[2]
    return is_over(at) and at["state"] == "paused" and at["seq"] == seqs.get(at["stream_id"])


def is_over(at: Said) -> bool:
    return bool(at["events_behind"] > BOUND)


def is_slowed(edge: EdgeProcess, one: Fallen) -> bool:
    answer = httpx2.post(
        f"{edge.url}/v1/streams/{one.stream.stream_id}/events",
        json={"type": "log", "payload": {"line": "one more"}}, trust_env=False, verify=False, timeout=30,
    )  # fmt: skip
    assert answer.status_code in (202, 429)
    return answer.status_code == 429


def has_stalled_enough(edge: EdgeProcess, policy: str, one: Fallen) -> bool:
    """Whether the producers of a kind that slows them were slowed, for as long as they may be."""
    slowed = counter(edge, "slowed_streams_total", kind=policy)
    assert slowed <= len(TRANSPORTS)
    slows = POLICIES[policy]["backpressure"]["stall_ms_max"] != 0
    return slowed == slows * len(TRANSPORTS) and not is_slowed(edge, one)


def read(client: SlowClient, done: Callable[[Said], bool]) -> list[Said]:
    """Read until something holds of what was said, and give all of it."""
    seen = [client.next()]
    while not done(seen[-1]):
        seen.append(client.next())
    return seen


def read_to(client: SlowClient, seq: int) -> list[Said]:
    return read(client, lambda said: said["seq"] == seq)


def missed_of(seen: list[Said], expected: int) -> list[Said]:
    """Check that events and gaps follow on each other from a seq on; give the gaps."""
    for said in seen:
        first = said["from_seq"] if said["type"] == "gap" else said["seq"]
        assert first == expected, said
        expected = said["seq"] + 1
    return [said for said in seen if said["type"] == "gap"]


def counter(edge: EdgeProcess, name: str, **labels: str) -> float:
    shown = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    start = f"sluicegate_edge_{name}{{{shown}}} "
    lines = edge.wait_for("/metrics").text.splitlines()
    return next((float(line.removeprefix(start)) for line in lines if line.startswith(start)), 0.0)


def told(stage: Stage, stream: TwinStream, closed: int) -> list[Said]:
    """What the edge told of a stream's connections, when so many have been closed."""
    wire, key = WireCodec(stage.registry), f"{stream.tenant}/{stream.stream_id}".encode()

    def of_it(messages: list[Any]) -> list[Said]:
        return [dict(wire.decode(one.value(), CONNECTIONS.subject)) for one in messages if one.key() == key]

    def enough(messages: list[Any]) -> bool:
        return sum(one["action"] == "closed" for one in of_it(messages)) >= closed

    return of_it(read_committed(stage.kafka, CONNECTIONS, enough, quiet_s=0.1))


def actions(records: list[Said], transport: type[SlowClient]) -> list[str]:
    assert {one["transport"] for one in records} == {transport.transport}
    return [one["action"] for one in records]


def resumes(stage: Stage, client: SlowClient, stream: TwinStream, expected: int) -> None:
    """Come back, and be given what follows on what was read, and nothing twice."""
    stage.twin.logs(stream, 3)
    back = client.back()
    seqs = [said["seq"] for said in read_to(back, stream.next_seq - 1)]
    assert seqs == list(range(expected, stream.next_seq))
    back.close()


@each_transport
@pytest.mark.parametrize(
    ("policy", "does"),
    [
        ("drop_old", "drop_old"),
        ("drop_new", "drop_new"),
        ("slow_then_drop_old", "drop_old"),
        ("slow_then_drop_new", "drop_new"),
    ],
)
def test_a_gap_stands_for_what_a_client_was_too_slow_for(stage, edge, fallen, policy, does, transport):
    one = fallen[policy, transport]
    until(lambda: has_stalled_enough(edge, policy, one))

    seen = read_to(one.client, one.last)
    gaps = missed_of(seen, 1)
    assert {gap["reason"] for gap in gaps} == {"slow"}
    after = len(seen) - 1 - seen.index(gaps[-1])
    assert after == (BOUND if does == "drop_old" else 0)
    dropped = counter(
        edge, "slow_dropped_events_total", kind=policy, policy=does, transport=transport.transport
    )
    assert dropped == sum(gap["count"] for gap in gaps) > 0

    seq = one.last
    one.client.close()
    resumes(stage, one.client, one.stream, seq + 1)
    records = told(stage, one.stream, closed=2)
    assert actions(records, transport) == ["opened", *["gap"] * len(gaps), "closed", "resumed", "closed"]
    assert [
        (at["from_seq"], at["to_seq"], at["count"], at["reason"]) for at in records if at["action"] == "gap"
    ] == [(gap["from_seq"], gap["to_seq"], gap["count"], "slow") for gap in gaps]
    first, second = [at for at in records if at["action"] == "closed"]
    assert (first["seq"], second["seq"], second["events"]) == (seq, seq + 3, 3)
    assert {first["reason"], second["reason"]} <= {"gone", "left"}


@each_transport
@pytest.mark.parametrize("policy", ["terminate", "slow_then_terminate"])
def test_one_that_is_let_go_is_told_to_come_back_and_misses_nothing(stage, edge, fallen, policy, transport):
    one = fallen[policy, transport]
    of_it = {"kind": policy, "policy": "terminate", "transport": transport.transport}
    until(lambda: has_stalled_enough(edge, policy, one))
    until(lambda: counter(edge, "slow_closed_total", **of_it) == 1)

    *seen, away = read(one.client, lambda said: said["type"] == "reconnect")
    assert missed_of(seen, 1) == []
    assert away["reason"] == "slow"
    assert one.client.how_it_ends() == transport.let_go
    back = one.client.back()
    rest = read_to(back, one.last)
    assert missed_of(rest, seen[-1]["seq"] + 1) == []
    back.close()

    records = told(stage, one.stream, closed=2)
    assert actions(records, transport) == ["opened", "closed", "resumed", "closed"]
    assert (records[1]["reason"], records[1]["seq"]) == ("slow", seen[-1]["seq"])
    assert (records[3]["seq"], records[3]["events"]) == (one.last, len(rest))
    assert counter(edge, "slow_closed_total", **of_it) == 1


def test_a_websocket_is_let_go_from_one_stream_alone_and_has_all_of_the_others(stage, edge):
    slow, kept = stage.twin.open("slow", kind="one_of_many"), stage.twin.open("kept", kind="log")
    client = SlowWebSocket(edge, slow.stream_id)
    client.say(type="subscribe", stream=kept.stream_id)
    heard: list[Said] = []

    def hear_until(done: Callable[[], bool]) -> None:
        while not done():
            heard.append(client.hear())

    def events(stream: TwinStream) -> list[Said]:
        return [
            said["event"] for said in heard if (said["type"], said["stream"]) == ("event", stream.stream_id)
        ]

    heard.append({"stream": "", **client.hear()})
    hear_until(lambda: bool(events(slow) and events(kept)))
    until(
        lambda: all(
            one["state"] == "abreast" for one in connections_of(edge) if one["stream_id"] in ("slow", "kept")
        )
    )
    while not counter(
        edge, "slow_closed_total", kind="one_of_many", policy="terminate", transport="websocket"
    ):
        stage.twin.write(slow, LINES)
    stage.twin.logs(kept, 50)

    hear_until(lambda: bool(events(kept)) and events(kept)[-1]["seq"] == 50)
    assert missed_of(events(kept), 0) == []
    assert missed_of(events(slow), 0) == []
    (away,) = [said for said in heard if said["type"] == "reconnect"]
    assert (away["stream"], away["reason"]) == ("slow", "slow")
    assert away["cursor"] == [said for said in heard if said["stream"] == "slow"][-2]["cursor"]
    client.say(type="subscribe", stream="slow", cursor=away["cursor"])
    hear_until(lambda: events(slow)[-1]["seq"] == slow.next_seq - 1)
    assert missed_of(events(slow), 0) == []
    client.close()
    assert actions(told(stage, kept, closed=1), SlowWebSocket) == ["opened", "closed"]


def appended(stage: Stage, stream: TwinStream) -> list[str]:
    """What was published to a stream, when ``held`` is there."""
    wire = WireCodec(stage.registry)

    def ids(messages: list[Any]) -> list[str]:
        found = [wire.decode_event(one.value()) for one in messages]
        return [event.event_id for event in found if event.stream_id == stream.stream_id]

    return ids(read_committed(stage.kafka, INPUT, lambda found: "held" in ids(found), quiet_s=0.5))


# Each publishes an event ``held``, gives how many others it had appended meanwhile, and when asked goes on.


def over_http(edge: EdgeProcess, one: Fallen) -> Iterator[int]:
    """A producer that is refused, and repeats its request."""
    event = {"type": "log", "event_id": "held", "payload": {"line": "held"}}
    path = f"{edge.url}/v1/streams/{one.stream.stream_id}/events"
    answer = httpx2.post(path, json=event, trust_env=False, verify=False, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (429, "slowed")
    assert answer.headers["retry-after"] == "1"
    yield 0
    until(lambda: httpx2.post(path, json=event, trust_env=False, verify=False, timeout=30).status_code == 202)


def over_websocket(edge: EdgeProcess, one: Fallen) -> Iterator[int]:
    """A producer whose acknowledgement is withheld; all else that it says is answered."""
    event = {"type": "log", "event_id": "held", "payload": {"line": "held"}}
    name, tries = one.stream.stream_id, edge.metric("sluicegate_edge_slowed_publishes_total")
    with Talk(edge.url) as talk:
        talk.say("publish", id="held", stream=name, events=event)
        until(lambda: edge.metric("sluicegate_edge_slowed_publishes_total") == tries + 1)
        assert talk.ask("publish", id="b", stream="free", kind="log", events=event)["type"] == "publish_ack"
        assert talk.ask("cancel", id="c", stream=name)["type"] == "cancel_ack"
        assert talk.ask("ping", id="d") == {"type": "pong", "id": "d"}
        assert "held" not in [said.get("id") for said in talk.heard]
        yield 2
        assert talk.until(lambda said: said.get("id") == "held")["type"] == "publish_ack"


def over_grpc(edge: EdgeProcess, one: Fallen) -> Iterator[int]:
    """A producer of which no more is read."""
    calls, tries = GrpcEdge(edge), edge.metric("sluicegate_edge_slowed_publishes_total")

    def requests() -> Iterator[PublishRequest]:
        for name in ("held", "behind it"):
            event = NewEvent(type="log", event_id=name, json='{"line": "held"}')
            yield PublishRequest(stream_id=one.stream.stream_id, events=[event])

    answers = calls.streams.PublishMany(requests(), timeout=2 * DEADLINE_S)
    until(lambda: edge.metric("sluicegate_edge_slowed_publishes_total") == tries + 1)
    yield 0
    assert [answer.events[0].event_id for answer in answers] == ["held", "behind it"]
    calls.channel.close()


@pytest.mark.parametrize(
    ("transport", "publish"),
    [(SlowSse, over_http), (SlowWebSocket, over_websocket), (SlowCall, over_grpc)],
    ids=["sse", "websocket", "grpc"],
)
def test_a_producer_is_slowed_as_its_transport_can_and_flows_again_when_its_client_reads(
    stage, edge, fallen, transport, publish
):
    one = fallen["slow_producer", transport]
    until(lambda: is_slowed(edge, one))
    before = edge.metric(PUBLISHED)
    producer = publish(edge, one)
    others = next(producer)
    assert edge.metric(PUBLISHED) - before == others

    seen = read_to(one.client, one.last)
    assert next(producer, "done") == "done"
    assert missed_of(seen, 1) == []
    assert len(seen) == one.last
    assert appended(stage, one.stream).count("held") == 1

    one.client.close()
    resumes(stage, one.client, one.stream, one.last + 1)
    assert actions(told(stage, one.stream, closed=2), transport) == ["opened", "closed", "resumed", "closed"]


@each_transport
def test_a_client_whose_connection_has_lived_for_long_enough_comes_back_and_misses_nothing(
    stage, edge, transport
):
    stream = stage.twin.open(f"brief-{transport.transport}", kind="brief")
    stage.twin.logs(stream, 3)
    edge.wait_for(f"/v1/streams/{stream.stream_id}")  # its kind says how long a connection lives
    client = transport(edge, stream.stream_id)
    *seen, away = read(client, lambda said: said["type"] == "reconnect")
    assert [said["seq"] for said in seen] == list(range(len(seen)))
    assert away["reason"] == "life"
    assert client.how_it_ends() == transport.life_over
    resumes(stage, client, stream, len(seen))
    records = told(stage, stream, closed=2)
    assert (records[1]["reason"], records[1]["seq"]) == ("life", len(seen) - 1)
    assert actions(records, transport) == ["opened", "closed", "resumed", "closed"]
    assert counter(edge, "connections_closed_total", reason="life", transport=transport.transport) >= 1
