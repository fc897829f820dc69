"""What an agent could not handle of a topic that others read, too, is handed back to it alone, once."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from schemas.topics import DEAD_REPLAYS, OUTPUT, STREAM_PARTITIONS, TopicSpec
from schemas.wire import WireCodec
from tests.support.read_topic import read_committed
from tests.support.totals_user import TotalsUser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ops.stack.addresses import Addresses

_AGENT = '''
"""Counts events by key and says each one's id; while a file named broken is there it cannot handle most."""

from pathlib import Path

from schemas.topics import OUTPUT, STREAM_PARTITIONS, TopicSpec

SEEN = TopicSpec("{role}.seen.v1", "key", "", STREAM_PARTITIONS, -1, "delete", "Each event's id and count.")
CHANGELOG = TopicSpec("{role}.changelog.v1", "key", "", STREAM_PARTITIONS, -1, "compact", "Counts.")
TOPICS = (SEEN, CHANGELOG)
BROKEN = Path(__file__).parent / "broken"


def handle(scope, event_id, key):
    number = int(event_id.removeprefix("id-"))
    if "{role}" == "totals" and number % 3 and BROKEN.exists():
        raise ValueError("broken")
    count = int(scope.state.get(key) or 0) + 1
    scope.state.put(key, b"%d" % count)
    scope.emit(SEEN, key, b"%s %d" % (event_id.encode(), count), partition=scope.partition)


def register(app, tools, options):
    how = dict(columns=tools.columns()) if "{takes}" == "columns" else dict(decode=tools.decode_events)
    source = app.source(OUTPUT, agent="{role}", changelog=CHANGELOG, writes=(SEEN,), **how)

    @app.agent(source)
    async def agent(stream):
        if "{takes}" == "events":
            async for event in stream:
                handle(stream.scope, event.event_id, event.key)
        else:
            async for batch in stream.record_batches():
                rows = zip(batch.records, batch.columns["event_id"].to_pylist())
                for record, event_id in rows:
                    handle(batch.scope, event_id, record.key)
'''


def seen_topic(role: str) -> TopicSpec:
    return TopicSpec(
        f"{role}.seen.v1", "key", "", STREAM_PARTITIONS, -1, "delete", "Each event's id and count."
    )


class User(TotalsUser):
    def write(self, role: str, takes: str = "events") -> None:
        self.agents.mkdir(exist_ok=True)
        (self.agents / f"{role}.py").write_text(_AGENT.format(role=role, takes=takes))
        self.environment["SLUICEGATE_PIPELINES"] = str(self.agents)
        self.environment["SLUICEGATE_WORKER__ATTEMPTS_MAX"] = "1"

    @property
    def agents(self) -> Any:
        return self.folder / "agents"

    def seen(self, role: str) -> Counter[str]:  # type: ignore[override]
        """Every id that a role has said, with how often it did."""
        found = read_committed(self.kafka, seen_topic(role), 0, quiet_s=0.1)
        return Counter((message.value() or b"").decode().split()[0] for message in found)

    def letters(self) -> list[dict[str, Any]]:
        code, out, err = self.run("dlq", "list", "--limit", "10000", "--json")
        assert code == 0, err
        found: list[dict[str, Any]] = json.loads(out)["dead_letters"]
        return found

    def replay(self, *words: str, code: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        ended, out, err = self.run("dlq", "replay", *words, "--json")
        assert ended == code, err
        *rows, sums = (json.loads(line) for line in out.splitlines())
        return rows, sums


@pytest.fixture
def user(tmp_path, stack: Addresses, kafka_options, registry, topics) -> Iterator[User]:
    topics(OUTPUT)
    with User(tmp_path, stack, kafka_options, WireCodec(registry), keys=12) as running:
        yield running


@pytest.mark.timeout(240)
@pytest.mark.parametrize("takes", ["events", "columns"])
def test_what_one_of_two_readers_could_not_handle_is_its_alone_once_however_often_it_is_asked_for(
    user: User, takes: str
) -> None:
    # Given two roles that read the output, one of which cannot handle two thirds of it
    user.write("totals", takes)
    user.write("others")
    (user.agents / "broken").touch()
    user.publish(90)
    worker = user.worker("totals,others")
    user.until(lambda: len(user.letters()) == 60, "all that fail are letters", log="worker")
    user.until(lambda: len(user.seen("others")) == 90, "the other role has all", log="worker")

    # When it is mended, a dry run says to whom they would go and does nothing
    (user.agents / "broken").unlink()
    rows, sums = user.replay("--all")
    assert sums | {"missing": []} == {
        "dry_run": True, "would_replay": 60, "replayed_before": 0, "cannot": 0, "missing": [],
    }  # fmt: skip
    assert {(row["outcome"], row["back_to"]) for row in rows} == {("would_replay", "totals")}
    assert not read_committed(user.kafka, DEAD_REPLAYS, 0)

    # Then each is handled once, by that role alone, and a second replay and a killed worker change nothing
    _, sums = user.replay("--all", "--yes", "--reason", "mended")
    assert sums["replayed"] == 60
    user.until(lambda: len(user.seen("totals")) == 90, "all is handled", log="worker")
    _, sums = user.replay("--all", "--yes")
    assert (sums["replayed"], sums["replayed_before"]) == (0, 60)
    user.kill(worker)
    user.worker("totals,others", log="again")
    user.publish(6)
    user.until(lambda: len(user.seen("totals")) == 96, "it goes on", log="again")
    assert set(user.seen("totals").values()) == {1}
    assert set(user.seen("others").values()) == {1}
    assert len(read_committed(user.kafka, OUTPUT, 96)) == 96, "nothing was appended"
    shown = json.loads(user.run("dlq", "show", rows[0]["id"], "--json")[1])["replay"]
    assert (shown["state"], shown["to"], shown["reason"]) == ("handled", "totals", "mended")
    counts = {
        m.key(): int((m.value() or b"").split()[1])
        for m in read_committed(user.kafka, seen_topic("totals"), 96)
    }
    assert set(counts.values()) == {8}, "state and outputs say the same"


@pytest.mark.timeout(300)
def test_none_is_handled_twice_or_never_while_workers_are_killed(user: User) -> None:
    # Given a backlog of letters, and two workers of which one is always being killed
    user.write("totals")
    (user.agents / "broken").touch()
    user.publish(600)
    user.environment["SLUICEGATE_WORKER__COMMIT_INTERVAL_MS"] = "20"
    workers = [user.worker("totals", log=name) for name in ("one", "two")]
    user.until(lambda: len(user.letters()) == 400, "all that fail are letters", log="one")
    (user.agents / "broken").unlink()

    # When they are handed back, twice, under kills and new events
    chance = random.Random(7)
    _, sums = user.replay("--all", "--yes")
    assert sums["replayed"] == 400
    for turn in range(4):
        time.sleep(chance.uniform(0.3, 1.5))
        which = turn % 2
        user.kill(workers[which])
        name = ("one", "two")[which]
        workers[which] = user.worker("totals", log=name)
        user.publish(60)
    assert user.replay("--all", "--yes")[1]["replayed_before"] == 400

    # Then each event had one effect
    user.until(lambda: len(user.seen("totals")) == 840, "all is handled", log="one", within_s=120)
    assert set(user.seen("totals").values()) == {1}
    assert len(user.letters()) == 400
