"""Other people's clients on one edge: they fall behind, it is killed, events are lost, it goes, it ends.

All of them follow one stream at once, and go through the same. What each could do is the table of
docs/clients.md; a client that can more or less than the page says fails here.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from schemas.topics import OUTPUT, partition_of
from tests.e2e.outside.followers import InPage, InProcess, need_modules, npm_follower, pypi_follower
from tests.support.edge_fixtures import EDGE_TOPICS
from tests.support.edge_process import EdgeProcess
from tests.support.ingest_twin import IngestTwin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from playwright.sync_api import Browser

    from tests.e2e.outside.followers import Follower, Said
    from tests.support.ingest_twin import TwinStream

pytestmark = pytest.mark.timeout(300)
PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
SITUATIONS = ("killed", "gap", "drained", "life", "overloaded", "over")
CLIENTS = {
    "EventSource": "browser",
    "sluicegate.js, in a browser": "browser",
    "@microsoft/fetch-event-source": "browser",
    "sluicegate.js, in Node.js": "npm",
    "eventsource": "npm",
    "eventsource-client": "npm",
    "httpx-sse": "pypi",
    "sseclient-py": "pypi",
    "launchdarkly-eventsource": "pypi",
    "ws": "npm",
    "websockets": "pypi",
    "grpcio": "pypi",
}
OVERLOAD_MS = 400
KINDS = Path(__file__).parent / "outside" / "kinds"
READ_ALONG = {*(client for client, where in CLIENTS.items() if where == "browser"), "grpcio"}
"""Those that are not stopped to fall behind: a page's reading is the browser's, and gRPC's connection has a
keepalive of its own, which finds a stopped program dead. The scenarios make grpcio fall behind."""
BEHIND_BYTES_MAX = 4 << 20
"""As the kind has it."""
LINE_BYTES = 20_000
_STEP_S = 40
"""For all of them to come back, on a machine that does much else."""


def short_name(client: str) -> str:
    return "sluicegate" if client.startswith("sluicegate") else client.removeprefix("@microsoft/")


@dataclass
class Journey:
    """What was done to the stream, and what each client said after which step."""

    steps: dict[str, range] = field(default_factory=dict)
    """The seqs that came in it, by step; in most of them while the clients were away."""
    said: dict[str, list[Said]] = field(default_factory=dict)

    def did(self, client: str, step: str) -> list[str]:
        """What a client did between the last that it saw before a step and the first that it saw in it.

        It was killed before it was overloaded, and saw nothing in between.
        """
        did: list[tuple[int, str]] = []
        first = self.steps["killed" if step == "overloaded" else step].start
        for said in self.said[client]:
            if said.get("seq", -1) >= first:
                break
            if "state" in said:
                did.append((said["at_ms"], said["state"]))
            elif "seq" in said:
                did = []
        else:
            raise AssertionError(f"{client} never came to {step}: {self.said[client][-4:]}")
        overloaded_ms = sent_away(self.said[client], "overload")[0]
        if step == "killed":
            return [state for at_ms, state in did if at_ms < overloaded_ms]
        if step == "overloaded":
            return [state for at_ms, state in did if at_ms >= overloaded_ms]
        return [state for _, state in did]


@pytest.fixture(scope="module")
def journey(
    browser: Browser, stack: Any, registered_schemas: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Journey]:
    from connectors.kafka.admin import ensure_topics  # noqa: PLC0415
    from connectors.kafka.options import KafkaOptions  # noqa: PLC0415
    from connectors.registry import Registry  # noqa: PLC0415

    need_modules()
    folder = tmp_path_factory.mktemp("outside")
    kafka = KafkaOptions(bootstrap_servers=stack.kafka, topic_prefix=f"outside{time.time_ns()}.")
    ensure_topics(kafka, EDGE_TOPICS)
    twin = IngestTwin(kafka, Registry(registered_schemas))
    # Those that stop reading are found to be slow before they are given up as gone.
    options = {"drain_ms": 500, "write_stall_ms_max": 200_000, "pipelines": str(KINDS / "usual")}
    edge = EdgeProcess(kafka, registered_schemas, folder / "edge.log", options)
    followers: dict[str, Follower] = {}
    stream = twin.open("outside", kind="watched")
    twin.logs(stream, 5)
    edge.start()
    try:
        url = f"{edge.url}/v1/streams/outside/events"
        for client, where in CLIENTS.items():
            name, log = short_name(client), folder / f"{where}-{short_name(client)}.log"
            if where == "browser":
                followers[client] = InPage(browser, name, edge.url, url)
            elif where == "npm":
                followers[client] = npm_follower(name, url, log)
            else:
                followers[client] = pypi_follower(name, url, edge.grpc_address, log)
        yield travel(edge, twin, stream, followers)
    finally:
        for follower in followers.values():
            follower.close()
        edge.stop()
        twin.close()


def travel(
    edge: EdgeProcess, twin: IngestTwin, stream: TwinStream, followers: Mapping[str, Follower]
) -> Journey:
    """Do to all of them what the page tells of; a client that does not come along is left behind."""
    made = Journey()

    def wait(holds: Callable[[list[Said]], bool], clients: Iterable[str] = followers) -> None:
        deadline = time.monotonic() + _STEP_S
        waiting = set(clients)
        while waiting and time.monotonic() < deadline:
            for client in tuple(waiting):
                made.said[client] = followers[client].said()
                if holds(made.said[client]):
                    waiting.discard(client)
            time.sleep(0.05)

    def came(step: str, first: int) -> None:
        made.steps[step] = range(first, stream.next_seq)
        wait(lambda said: any(one.get("seq") == stream.next_seq - 1 for one in said))

    came("connects", 0)

    first = stream.next_seq
    stopped = {
        name: one for name, one in followers.items() if isinstance(one, InProcess) and name not in READ_ALONG
    }
    for follower in stopped.values():
        follower.stop_reading()
    try:
        for _ in range(8):  # 8 MB
            twin.write(stream, [("log", {"line": "x" * LINE_BYTES})] * 50)
            wait(lambda said: said[-1].get("seq") == stream.next_seq - 1, followers.keys() - stopped.keys())
        wait_until_behind(edge, len(stopped))
    finally:
        for follower in stopped.values():
            follower.read_on()
    came("slow", first)

    edge.kill()
    first = stream.next_seq
    twin.logs(stream, 5)
    wait(lambda said: len(states(said)) >= 2)  # each finds nobody there
    edge.options |= {"connections_max": 0, "retry_ms": OVERLOAD_MS // 2}
    edge.start()
    wait(lambda said: len(sent_away(said, "overload")) >= 3)
    edge.kill()
    edge.options |= {"connections_max": 100}
    edge.start()
    came("killed", first)

    edge.kill()
    first = stream.next_seq
    twin.logs(stream, 5)
    twin.logs(stream, 5)
    partition = partition_of(b"default/outside", OUTPUT.partitions)
    twin.delete_before(OUTPUT, partition, stream.last_offset - 4)  # the last five stay
    edge.start()
    came("gap", first)

    assert edge.terminate() == 0
    first = stream.next_seq
    twin.logs(stream, 5)
    edge.options |= {"pipelines": str(KINDS / "short_lived")}  # connections of the same kind
    edge.start()
    came("drained", first)

    first = stream.next_seq
    wait(lambda said: bool(sent_away(said, "life")))
    twin.logs(stream, 5)
    came("life", first)

    first = stream.next_seq
    twin.end(stream)
    came("over", first)
    wait(lambda said: "over" in states(said) or after_end(said).count("again") >= 2)
    return made


def wait_until_behind(edge: EdgeProcess, clients: int) -> None:
    """Until so many take nothing, and are further behind than their kind allows."""
    deadline = time.monotonic() + _STEP_S
    while time.monotonic() < deadline:
        shown = edge.wait_for("/v1/connections?slow=true").json()["connections"]
        if sum(one["bytes_behind"] > BEHIND_BYTES_MAX for one in shown if one["paused_ms"]) == clients:
            return
        time.sleep(0.1)
    raise AssertionError(f"not all {clients} are behind: {shown}")


def states(said: list[Said]) -> list[str]:
    return [one["state"] for one in said if "state" in one]


def sent_away(said: list[Said], reason: str) -> list[int]:
    """When a client was told to come back for a reason; sluicegate.js takes that to itself, and says why."""
    return [
        one["at_ms"]
        for one in said
        if (one.get("type") == "reconnect" and one["reason"] == reason)
        or ("state" in one and one.get("why") == reason)
    ]


def after_end(said: list[Said]) -> list[str]:
    ends = [place for place, one in enumerate(said) if one.get("type") == "end"]
    return states(said[ends[0] :]) if ends else []


# -- the page -------------------------------------------------------------------------------------------


def told() -> dict[tuple[str, str], str]:
    """What the page says of each client in each situation: ``yes``, ``program`` or ``no``."""
    rows = re.findall(r"^\| `?(.+?)`?(?: \(.*?\))? \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    return {
        (client, situation): cell.strip().partition(" ")[0].rstrip(",;:")
        for client, cells in rows
        if client in CLIENTS
        for situation, cell in zip(SITUATIONS, cells.split(" | "), strict=False)
    }


def test_the_page_tells_of_every_client_in_every_situation():
    assert set(told()) == {(client, situation) for client in CLIENTS for situation in SITUATIONS}
    assert set(told().values()) == {"yes", "program", "no"}


# -- the clients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_it_sees_each_event_once_and_in_order_or_a_gap_that_stands_for_it(client, journey):
    expected, gaps = 0, []
    for said in journey.said[client]:
        if said.get("type") == "gap":
            assert (said["from_seq"], said["count"]) == (expected, said["to_seq"] + 1 - expected)
            gaps.append(said)
        elif "seq" in said:
            assert said["seq"] == expected
        else:
            continue
        expected = said["seq"] + 1
    assert expected == journey.steps["over"].stop
    lost = journey.steps["gap"][:5]
    retained = [(gap["from_seq"], gap["to_seq"]) for gap in gaps if gap["reason"] == "retention"]
    assert retained == [(lost[0], lost[-1])]
    slow = {gap["to_seq"] in journey.steps["slow"] for gap in gaps if gap["reason"] == "slow"}
    assert slow == (set() if client in READ_ALONG else {True})


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("situation", ["killed", "gap", "drained", "life"])
def test_it_comes_back_by_itself_or_is_called_again_by_its_program_as_the_page_says(
    client, situation, journey
):
    did = journey.did(client, situation)
    by_program = bool({"returned", "raised"} & set(did))
    by_itself = "again" in did and not by_program
    assert {"yes": by_itself, "program": by_program}[told()[client, situation]], did


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("reason", ["drain", "life"])
def test_it_is_told_why_the_edge_ends_its_connection(client, reason, journey):
    assert sent_away(journey.said[client], reason)


@pytest.mark.parametrize("client", CLIENTS)
def test_it_keeps_off_an_edge_that_is_overloaded_as_the_page_says(client, journey):
    """Each answer says to come back in so many milliseconds, at least."""
    told_ms = sent_away(journey.said[client], "overload")
    waits = all(later - earlier >= OVERLOAD_MS for earlier, later in pairwise(told_ms))
    by_program = bool({"returned", "raised"} & set(journey.did(client, "overloaded")))
    does = "program" if waits and by_program else "yes" if waits else "no"
    assert (len(told_ms) >= 3, does) == (True, told()[client, "overloaded"]), told_ms


@pytest.mark.parametrize("client", CLIENTS)
def test_it_stops_for_good_after_the_end_as_the_page_says(client, journey):
    did = after_end(journey.said[client])
    by_program = did[-1:] == ["over"] and journey.said[client][-1].get("by") == "program"
    by_itself = did[-1:] == ["over"] and not by_program
    asks_on = "over" not in did and did.count("again") >= 2
    assert {"yes": by_itself, "program": by_program, "no": asks_on}[told()[client, "over"]], did
