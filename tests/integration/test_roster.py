"""What is deployed, on record: whoever decides at the same moment, one decides after the other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from connectors.kafka.roster import Roster
from schemas.topics import DEPLOYED
from schemas.wire import WireCodec
from tests.faults.kafka_proxy import KafkaProxy


def row(role: str, **fields: Any) -> dict[str, Any]:
    return {
        "role": role, "generation": 1, "candidate": 0, "attempt": "", "from_ms": -1, "cut": False,
        "switching": False, "stores": [], "by": "", "reason": "", **fields,
    }  # fmt: skip


def test_many_that_decide_at_once_decide_one_after_the_other(kafka_options, registry, topics, capfd):
    topics(DEPLOYED)
    codec = WireCodec(registry)

    def count(number: int) -> int:
        mine = Roster(kafka_options, codec)
        decided = mine.change(
            "totals",
            lambda before: row("totals", generation=(before["generation"] if before else 0) + 1),
        )
        mine.change("other", lambda before: before or row("other", reason=f"first is {number}"))
        mine.close()
        assert decided is not None
        return int(decided["generation"])

    with ThreadPoolExecutor(6) as pool:
        got = sorted(pool.map(count, range(6)))
    assert got == [1, 2, 3, 4, 5, 6], "no two saw the same record, and none was lost"
    mine = Roster(kafka_options, codec)
    assert mine.read()["totals"]["generation"] == 6
    first = mine.read()["other"]["reason"]
    assert mine.change("other", lambda _before: None) == mine.read()["other"]
    assert mine.read()["other"]["reason"] == first
    mine.close()
    assert "FATAL" not in capfd.readouterr().err, (
        "that one fenced another is how it works, and nobody is told"
    )


def test_a_change_whose_commit_is_answered_by_an_unknown_error_is_decided_from_what_stands(
    kafka_options, registry, topics
):
    topics(DEPLOYED)
    seen = []

    def decide(before):
        seen.append(before and before["generation"])
        return row("totals", generation=7) if before is None else None

    with KafkaProxy(kafka_options.bootstrap_servers.split(",")) as proxy:
        mine = Roster(replace(kafka_options, bootstrap_servers=proxy.bootstrap), WireCodec(registry))
        spoilt = proxy.spoil()
        mine.change("totals", decide)
        mine.close()
    assert spoilt.said == 0, "it took place"
    assert seen == [None, 7]


def test_without_the_topic_there_is_nothing_on_record(kafka_options, registry):
    mine = Roster(kafka_options, WireCodec(registry))
    assert not mine.is_there()
    assert mine.read() == {}
    mine.close()
