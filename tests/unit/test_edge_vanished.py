"""Peers that vanish, or that only hold a connection: each ends in its time."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import uvloop
from pydantic import ValidationError

from edge.grpc_server import GrpcServer, _channel_options
from edge.listener import Listener
from edge.options import EdgeOptions
from edge.server import _user_timeout_ms, bind
from ops.edge import edge_options
from ops.settings import Settings
from tests.support.http2_client import PING, PREFACE, SETTINGS, http2
from tests.support.network import network_of_its_own
from tests.support.ports import free_port
from tests.support.shown_edge import ShownEdge, until
from tests.unit.support_grpc import Desk

if TYPE_CHECKING:
    from pathlib import Path

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's")
_ACK = 0x1


@needs_linux
def test_the_kernel_is_told_of_each_connection_how_long_its_peer_may_be_silent():
    async def scene() -> list[int]:
        listening = bind("127.0.0.1", 0)
        options = EdgeOptions()
        with socket.create_connection(listening.getsockname(), 30):  # before it takes any
            listener = Listener(
                listening, asyncio.Protocol, connections_max=10, user_timeout_ms=_user_timeout_ms(options)
            )
            listener._take()
            told = [
                one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for one in list(listener._open)
            ]
            listener.close()
            await listener.all_made(30)
        return told

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(asyncio.wait_for(scene(), 60)) == [45_000]


def test_a_client_that_lives_and_reads_nothing_is_left_to_the_policy():
    assert _user_timeout_ms(EdgeOptions()) > EdgeOptions().write_stall_ms_max
    assert _user_timeout_ms(EdgeOptions(write_stall_ms_max=300_000)) == 450_000
    assert _user_timeout_ms(EdgeOptions(tcp_user_timeout_ms=0)) == 0


def test_how_long_a_vanished_client_and_an_idle_connection_stay_is_a_setting(monkeypatch):
    monkeypatch.setenv("SLUICEGATE_EDGE__TCP_USER_TIMEOUT_MS", "120000")
    monkeypatch.setenv("SLUICEGATE_EDGE__GRPC_CONNECTION_IDLE_MS", "3600000")
    options = edge_options(Settings())
    assert _user_timeout_ms(options) == 120_000
    assert dict(_channel_options(options))["grpc.max_connection_idle_ms"] == 3_600_000
    monkeypatch.setenv("SLUICEGATE_EDGE__TCP_USER_TIMEOUT_MS", "0")
    assert _user_timeout_ms(edge_options(Settings())) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TCP_USER_TIMEOUT_MS", "44999"),
        ("TCP_USER_TIMEOUT_MS", "3600001"),
        ("TCP_USER_TIMEOUT_MS", "-1"),
        ("GRPC_CONNECTION_IDLE_MS", "9999"),
        ("GRPC_CONNECTION_IDLE_MS", "86400001"),
    ],
)
def test_a_setting_that_would_cut_off_who_is_there_or_keep_who_is_gone_is_refused(name, value, monkeypatch):
    monkeypatch.setenv(f"SLUICEGATE_EDGE__{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


CLIENT = """
import socket, sys, time
client = socket.create_connection((sys.argv[1], int(sys.argv[2])), 30)
client.sendall(b"GET /v1/streams/none/events HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
assert client.recv(4096).startswith(b"HTTP/1.1 200")
print("there", flush=True)
time.sleep(600)
"""


@needs_linux
def test_a_client_whose_network_is_gone_is_gone_in_its_time(tmp_path: Path):
    # Tests of other processes have addresses of their own.
    net = f"10.{64 + os.getpid() % 128}.{os.getpid() // 128 % 256}"
    options = {
        "host": "0.0.0.0",  # the network of the test
        "allow_network": True,
        "tcp_user_timeout_ms": 2_000,
        "write_stall_ms_max": 1_000,
        "idle_heartbeat_ms": 500,
    }
    with (
        network_of_its_own(f"{net}.1", f"{net}.2") as network,
        ShownEdge(tmp_path / "edge.log", options) as edge,
    ):
        words = [*network.within, sys.executable, "-c", CLIENT, network.here_address, str(edge.port)]
        client = subprocess.Popen(words, stdout=subprocess.PIPE)
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == b"there\n"
            assert edge.sockets == 1
            time.sleep(3)
            assert edge.sockets == 1, "it was there, and took its heartbeats"
            network.lose(to_it=True, from_it=True)
            until(lambda: edge.sockets == 0, "the end of a connection to nobody")
        finally:
            client.kill()
            client.wait(10)


def test_grpc_is_told_how_long_a_connection_may_have_no_call():
    assert dict(_channel_options(EdgeOptions()))["grpc.max_connection_idle_ms"] == 300_000


def test_a_connection_of_grpc_that_only_answers_pings_is_closed():
    def answers_pings(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 30) as client:
            client.sendall(PREFACE + http2(SETTINGS, b"") + http2(SETTINGS, b"", flags=_ACK))
            came, ends_s = b"", time.monotonic() + 30
            while data := client.recv(65_536):
                assert time.monotonic() < ends_s, "it is open still"
                came += data
                while len(came) >= 9 + (size := int.from_bytes(came[:3])):
                    kind, flags, frame, came = came[3], came[4], came[9 : 9 + size], came[9 + size :]
                    if kind == PING and not flags & _ACK:
                        client.sendall(http2(PING, frame, flags=_ACK))

    async def scene() -> None:
        desk = Desk(grpc_port=free_port(), grpc_connection_idle_ms=500, grpc_keepalive_ms=1_000)
        server = GrpcServer(desk.core, None)
        port = server.bind()
        await server.start()
        await asyncio.to_thread(answers_pings, port)
        await server.stop(0)

    asyncio.run(scene())
