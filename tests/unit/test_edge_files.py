"""Open files: an edge has as many as may be had, and cuts nobody off for whom there is none."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import grpc
import psutil
import pytest
import uvloop

from edge import files
from edge.errors import FilesRefused
from edge.files import OTHER_FILES, http_connections_max, within_files
from edge.listener import Listener
from edge.options import EdgeOptions
from edge.server import bind
from schemas.proto.sluicegate.v1.stream_pb2 import WatchRequest
from schemas.proto.sluicegate.v1.stream_pb2_grpc import StreamServiceStub
from tests.support.ports import free_port
from tests.support.shown_edge import ShownEdge, until

if TYPE_CHECKING:
    from pathlib import Path

ROOM = 100
SOFT, HARD = 128, OTHER_FILES + ROOM
COMING = 800
"""More at once than there are files."""
ASKED = b"GET /v1/streams/one/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""How a client of gRPC begins: a preface and empty settings."""


async def answer(port: int, until: asyncio.Event) -> bytes:
    """What one client is told; whoever is taken stays until all were answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    said = b""
    try:
        writer.write(ASKED)
        while b'"type":"open"' not in said and (data := await reader.read(65_536)):
            said += data
        if b'"type":"open"' in said:
            await until.wait()
    finally:
        writer.close()
    return said


async def all_answers(port: int) -> list[bytes]:
    over = asyncio.Event()
    asking = [asyncio.create_task(answer(port, over)) for _ in range(COMING)]
    waiting = set(asking)
    while len(waiting) > ROOM:
        _, waiting = await asyncio.wait(waiting, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    over.set()
    return await asyncio.gather(*asking)  # raises for one that was cut off


def test_an_edge_raises_its_limit_and_whom_it_has_no_file_for_is_told_to_come_again_and_not_cut_off(
    tmp_path: Path,
):
    assert files.files_max() > COMING + 200, "this test's own"
    with ShownEdge(tmp_path / "edge.log", files=(SOFT, HARD)) as edge:
        assert psutil.Process(edge.pid).rlimit(resource.RLIMIT_NOFILE) == (HARD, HARD)
        said = asyncio.run(asyncio.wait_for(all_answers(edge.port), 60))
        taken = [one for one in said if b'"type":"open"' in one]
        told = [one for one in said if b'"reason":"overload"' in one and b"\nretry: " in one]
        assert (len(taken), len(told)) == (ROOM, COMING - ROOM)
        assert f"connections_max={ROOM}" in edge.log.read_text()
        assert "raise the hard limit of open files to 10500 or more" in edge.log.read_text()


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)  # noqa: FBT003  # the standard library's signature
    try:
        while client.recv(65_536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def test_idle_connections_over_http_and_grpc_leave_files_for_all_else_and_then_each_is_told_its_answer(
    tmp_path: Path,
):
    hard, grpc_port = OTHER_FILES + 300, free_port()
    with (
        ShownEdge(tmp_path / "edge.log", files=(SOFT, hard), options={"grpc_port": grpc_port}) as edge,
        ExitStack() as clients,
    ):
        process = psutil.Process(edge.pid)

        def connected(port: int, said: bytes, count: int) -> list[socket.socket]:
            found = [
                clients.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(count)
            ]
            for one in found:
                with suppress(ConnectionError):
                    one.sendall(said)
            return found

        over_grpc = connected(grpc_port, HTTP2, 700)
        until(lambda: sum(map(is_open, over_grpc)) < 200, "gRPC takes no more")
        connected(edge.port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 700)
        time.sleep(2)
        assert 300 < process.num_fds() < hard - 100, "some are taken, and none of all others' files"
        assert "EMFILE" not in (log := edge.log.read_text())
        assert "Too many open files" not in log
        clients.close()
        until(lambda: process.num_fds() < 100, "they are given back")
        said = [clients.enter_context(edge.connect()) for _ in range(226)]
        for one in said:
            one.sendall(ASKED)
        answers = [read_until(one, b'"type":"open"', b'"reason":"overload"') for one in said]
        assert sum(b'"type":"open"' in answer for answer in answers) == 225
        assert sum(b"\nretry: " in answer for answer in answers) == 226
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            with pytest.raises(grpc.RpcError) as raised:
                next(StreamServiceStub(channel).Watch(WatchRequest(stream_id="one"), timeout=30))
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def read_until(client: socket.socket, *any_of: bytes) -> bytes:
    said = b""
    while not any(one in said for one in any_of) and (data := client.recv(65_536)):
        said += data
    return said


class Asked(asyncio.Protocol):
    said = b""

    def data_received(self, data: bytes) -> None:
        self.said += data


def test_a_quiet_time_is_no_long_turn_and_as_many_are_taken_in_a_long_one_as_came_in_short_ones():
    async def scene() -> list[int]:
        listening, taken = bind("127.0.0.1", 0), []
        listener = Listener(listening, Asked, connections_max=1_000)
        await asyncio.sleep(0.1)
        with ExitStack() as clients:
            for _ in range(30):
                clients.enter_context(socket.create_connection(listening.getsockname(), 30))
            for _ in range(2):
                listener._take()
                taken.append(len(listener._connecting))
                time.sleep(0.05)  # noqa: ASYNC251  # the loop is busy
            listener.close()
            await listener.all_made(30)
        return taken

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(asyncio.wait_for(scene(), 60)) == [10, 30]


def test_who_waits_when_an_edge_listens_no_more_is_taken_and_who_comes_then_goes_elsewhere():
    async def scene() -> int:
        listening = bind("127.0.0.1", 0)
        address = listening.getsockname()
        made: list[Asked] = []

        def make() -> Asked:
            made.append(Asked())
            return made[-1]

        listener = Listener(listening, make, connections_max=1_000)
        with ExitStack() as clients:
            for _ in range(30):  # the loop does not look for them meanwhile
                clients.enter_context(socket.create_connection(address, 30)).sendall(ASKED)
            listener.close()
            listener.close()  # a drain and then a stop
            await listener.all_made(30)
            assert all(one.said == ASKED for one in made)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, 30)
        return len(made)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(asyncio.wait_for(scene(), 60)) == 30


def test_where_no_file_is_left_for_clients_an_edge_does_not_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "files_max", lambda: OTHER_FILES)
    with pytest.raises(FilesRefused, match="may open 500 files, and needs 500") as refused:
        within_files(EdgeOptions())
    assert "ulimit -Hn" in refused.value.remedy
    monkeypatch.setattr(files, "files_max", lambda: OTHER_FILES + 10_000)
    assert within_files(EdgeOptions()) == EdgeOptions()
    both = EdgeOptions(grpc_port=0)
    monkeypatch.setattr(files, "files_max", lambda: OTHER_FILES + 21_000)
    assert within_files(both) == both
    assert http_connections_max(both) == 10_200
    monkeypatch.setattr(files, "files_max", lambda: OTHER_FILES + 5_000)
    few = within_files(both)
    assert (few.connections_max, few.grpc_connections_max, http_connections_max(few)) == (3_750, 1_250, 3_950)
