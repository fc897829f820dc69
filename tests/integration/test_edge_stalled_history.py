"""Clients of each transport that stop reading amid ten thousand events of the past, at a real edge."""

from __future__ import annotations

import pytest

from tests.support.slow_clients import TRANSPORTS, Over, connections_of, until

pytestmark = pytest.mark.timeout(240)
EVENTS, LINE_BYTES = 10_000, 3_000
EACH = 2
READ_FIRST = 500
WRITE_BYTES_MAX = 262_144
LITTLE = {
    "tail_recent_records": 500,
    "ring_events_max": 500,
    "history_cache_bytes_max": 2_000_000,
    "history_readers": 1,
    "write_bytes_max": WRITE_BYTES_MAX,
    "write_stall_ms_max": 200_000,  # they are to be looked at before they are given up as gone
}


@pytest.mark.parametrize("transport", TRANSPORTS, ids=lambda transport: transport.transport)
def test_who_stops_reading_amid_history_pins_one_write_and_misses_nothing(transport, make_edge, twin):
    stream = twin.open("s")
    twin.logs(stream, EVENTS, padding="x" * LINE_BYTES)
    twin.end(stream)
    edge = make_edge(**LITTLE)

    first = transport(edge, "s")
    assert [first.next()["seq"] for _ in range(READ_FIRST)] == list(range(READ_FIRST))
    amid_a_span = first.cursor
    assert rest_of(first) == list(range(READ_FIRST, EVENTS + 2))

    clients = [transport(edge, "s", cursor) for cursor in ["", amid_a_span] * EACH]
    begun = [[client.next()["seq"] for _ in range(READ_FIRST)] for client in clients]
    until(lambda: len(connections_of(edge, "?slow=true")) == len(clients))
    # Each is owed 30 MB. A second later nothing is held for it but the write that it does not take.
    until(lambda: all(one["bytes_ahead"] == 0 for one in connections_of(edge)))
    held = connections_of(edge)
    assert [one["state"] for one in held] == ["paused"] * len(clients)
    assert all(0 < one["bytes_pending"] < WRITE_BYTES_MAX + 1_000 for one in held)  # with its framing
    assert all(one["events_behind"] > EVENTS // 2 for one in held)
    for number, (client, seqs) in enumerate(zip(clients, begun, strict=True)):
        came_from = READ_FIRST if number % 2 else 0
        assert seqs + rest_of(client) == list(range(came_from, EVENTS + 2))
        client.close()
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
