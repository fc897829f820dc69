"""WebSocket against a real edge process on real Kafka, with the ``websockets`` client."""

from __future__ import annotations

import pytest

from tests.support.ws_client import Talk

pytestmark = pytest.mark.timeout(240)


def test_many_streams_come_over_one_connection_and_each_has_its_own_end(make_edge, twin):
    one, two = twin.open("one"), twin.open("two")
    twin.logs(one, 5)
    edge = make_edge()
    with Talk(edge.url) as talk:
        assert talk.ask("subscribe", id=1, stream="one")["type"] == "subscribed"
        assert talk.ask("subscribe", id="b", stream="two", tenant="default") == {
            "type": "subscribed", "id": "b", "tenant": "default", "stream": "two"
        }  # fmt: skip
        twin.logs(two, 3)
        twin.end(one)
        talk.until_type("ended")
        assert talk.seqs("one") == list(range(7))
        assert talk.ask("ping", id="p") == {"type": "pong", "id": "p"}
        twin.end(two)
        assert talk.until_type("ended")["stream"] == "two"
        assert talk.seqs("two") == list(range(5))
        assert edge.metric('sluicegate_edge_connections{transport="websocket"}') == 1
    events = [message for message in talk.heard if message["type"] == "event"]
    assert events[0]["event"]["type"] == "open"
    assert len({message["cursor"] for message in events}) == 12
