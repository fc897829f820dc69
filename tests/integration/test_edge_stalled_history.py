"""Clients of each transport that stop reading amid ten thousand events of the past, at a real edge."""

from __future__ import annotations

import psutil
import pytest

from tests.support.slow_clients import TRANSPORTS, Over, connections_of, until

pytestmark = pytest.mark.timeout(240)
EVENTS, LINE_BYTES = 10_000, 3_000
EACH = 2
READ_FIRST = 500
GROWN_MB_MAX = 70.0
"""Four that are owed 30 MB each would be 120 MB. Spans are 5 MB, and what was fetched from Kafka up to 16."""
LITTLE = {
    "tail_recent_records": 500,
    "ring_events_max": 500,
    "history_cache_bytes_max": 2_000_000,
    "history_readers": 1,
    "write_stall_ms_max": 200_000,  # they are to be looked at before they are given up as gone
}


@pytest.mark.parametrize("transport", TRANSPORTS, ids=lambda transport: transport.transport)
def test_who_stops_reading_amid_history_holds_no_memory_and_misses_nothing(transport, make_edge, twin):
    stream = twin.open("s")
    twin.logs(stream, EVENTS, padding="x" * LINE_BYTES)
    twin.end(stream)
    edge = make_edge(**LITTLE)
    process = psutil.Process(edge.process.pid)

    first = transport(edge, "s")
    assert [first.next()["seq"] for _ in range(READ_FIRST)] == list(range(READ_FIRST))
    amid_a_span = first.cursor
    rest = rest_of(first)  # what the same costs with nobody who stops
    assert rest == list(range(READ_FIRST, EVENTS + 2))
    before = process.memory_info().rss

    clients = [transport(edge, "s", cursor) for cursor in ["", amid_a_span] * EACH]
    begun = [[client.next()["seq"] for _ in range(READ_FIRST)] for client in clients]
    until(lambda: len(connections_of(edge, "?slow=true")) == len(clients))
    grown_mb = (process.memory_info().rss - before) / 1e6
    assert all(one["state"] == "paused" for one in connections_of(edge))
    for number, (client, seqs) in enumerate(zip(clients, begun, strict=True)):
        came_from = READ_FIRST if number % 2 else 0
        assert seqs + rest_of(client) == list(range(came_from, EVENTS + 2))
        client.close()
    assert grown_mb < GROWN_MB_MAX
    assert edge.metric("sluicegate_edge_gaps_total") == 0


def rest_of(client) -> list[int]:
    """Read to the stream's end."""
    seqs: list[int] = []
    try:
        while True:
            said = client.next()
            seqs.append(said["seq"])
            if said["type"] == "end":
                break
    except Over as over:
        raise AssertionError(f"{over} after seq {seqs[-1:]}") from None
    return seqs
