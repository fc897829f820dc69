"""What strangers send as bodies to an edge that takes events: each is answered or given up, in its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.test_edge_hostile import (
    CHUNKED,
    ENDLESS,
    HOST,
    LAST,
    MALFORMED,
    endless,
    request,
    statuses,
)
from tests.support.shown_edge import check_let_go, until
from tests.support.taking_edge import TakingEdge

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(180)

PLACES = 8
PUBLISH = b"POST /v1/streams/one/events HTTP/1.1"
CANCEL = b"POST /v1/streams/one/cancel HTTP/1.1"
JSON = b"Content-Type: application/json"
BODIES = [name for name, text in MALFORMED.items() if b"/cancel" in text]
ENDLESS_BODIES = [name for name, (start, _) in ENDLESS.items() if start.startswith(CHUNKED)]


@pytest.fixture(scope="module")
def edge(tmp_path_factory) -> Iterator[TakingEdge]:
    log = tmp_path_factory.mktemp("bodies") / "edge.log"
    options = {"request_read_ms_max": 500, "publishing_max": PLACES, "header_read_ms_max": 500}
    with TakingEdge(log, options) as running:
        until(lambda: statuses(running.said(LAST.replace(b"/healthz", b"/v1/streams/one"))) == [200], "one")
        yield running


@pytest.fixture(autouse=True)
def nothing_is_left(edge) -> Iterator[None]:
    yield
    check_let_go(edge)
    taken = request(b"Content-Length: 2", b"Connection: close", start=CANCEL, body=b"{}")
    assert statuses(edge.said(taken)) == [202]  # no place is held


@pytest.mark.parametrize("start", [PUBLISH, CANCEL], ids=["publish", "cancel"])
def test_slow_bodies_are_answered_in_their_time_and_no_more_are_read_than_there_are_places(edge, start):
    slow = [edge.connect() for _ in range(50)]
    for client in slow:
        client.sendall(request(JSON, b"Content-Length: 100", start=start, body=b'{"reason"'))
    answers = [statuses(client.recv(4_096)) for client in slow]
    for client in slow:
        client.close()
    assert answers.count([408]) >= PLACES - PLACES // 4  # all of one tenant
    assert answers.count([408]) + answers.count([503]) == 50


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_http_is_answered_400_once_and_closed(edge, name):
    assert statuses(edge.said(MALFORMED[name])) == [400]


@pytest.mark.parametrize("start", [PUBLISH, CANCEL], ids=["publish", "cancel"])
@pytest.mark.parametrize("name", ENDLESS_BODIES)
def test_a_body_without_an_end_is_ended_and_costs_no_memory(edge, name, start):
    before_bytes, (head, more) = edge.rss_bytes, ENDLESS[name]
    answer, sent = endless(edge, head.replace(CANCEL, start).replace(HOST, HOST + JSON + b"\r\n"), more)
    assert sent < 32 << 20
    assert set(statuses(answer)) <= {202, 400, 408, 413, 431}
    assert edge.rss_bytes - before_bytes < 16 << 20


def test_a_client_that_leaves_in_its_body_gives_its_place_back(edge):
    for _ in range(3 * PLACES):
        edge.said(CHUNKED + b"5\r\nab", half_close=True)
