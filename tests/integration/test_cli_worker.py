"""`sluicegate worker`: a process a role, stopped together, and never left half alive."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import httpx2
import psutil
import pytest

from tests.support.command_line import CommandLine
from tests.support.ports import consecutive_ports

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from ops.stack.addresses import Addresses

ROLES = ("ingest", "aggregate", "archive")


@pytest.fixture
def line(tmp_path: Path, stack: Addresses, kafka_options: KafkaOptions) -> Iterator[CommandLine]:
    with CommandLine(tmp_path, stack, kafka_options) as running:
        yield running


def roles_of(worker: subprocess.Popen[bytes]) -> dict[str, psutil.Process]:
    """Processes by their role; one that has only just begun has no words yet, and stands under none."""
    found = [(child.cmdline(), child) for child in psutil.Process(worker.pid).children()]
    return {words[-1]: child for words, child in found if words}


def started(line: CommandLine, *roles: str) -> subprocess.Popen[bytes]:
    worker = line.worker(",".join(roles))
    log = line.folder / "worker.log"
    line.until(lambda: log.read_text().count('"partition ready"') >= 4, "it reads", log="worker")
    line.until(lambda: set(roles_of(worker)) == set(roles), "a process a role runs", log="worker")
    return worker


def log_of(line: CommandLine) -> str:
    return (line.folder / "worker.log").read_text()


def test_a_signal_stops_every_role_and_the_exit_code_says_that_it_was_meant(line: CommandLine) -> None:
    worker = started(line, *ROLES)
    roles = roles_of(worker)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(40) == 0, log_of(line)
    assert not any(role.is_running() for role in roles.values())


def test_a_role_that_dies_takes_the_others_along_and_is_named(line: CommandLine) -> None:
    worker = started(line, "ingest", "aggregate")
    roles = roles_of(worker)
    roles["aggregate"].kill()
    assert worker.wait(40) == 128 + signal.SIGKILL
    assert "role aggregate ended by itself with exit code 137" in log_of(line)
    assert not roles["ingest"].is_running()


def test_a_killed_parent_leaves_no_role_behind(line: CommandLine) -> None:
    worker = started(line, "ingest")
    (role,) = roles_of(worker).values()
    worker.kill()
    line.until(lambda: not role.is_running() or role.status() == psutil.STATUS_ZOMBIE, "the role ends")


def test_a_signal_that_comes_twice_at_once_is_still_a_polite_one(line: CommandLine) -> None:
    worker = started(line, "ingest")
    worker.send_signal(signal.SIGINT)
    time.sleep(0.05)  # two of a kind at the very same time are one for the kernel already
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(40) == 0, log_of(line)


def test_a_worker_whose_terminal_is_closed_stops_every_role(line: CommandLine) -> None:
    worker, terminal = line.start_on_terminal("worker", "--roles", "ingest,aggregate")
    said = b""
    while said.count(b"partition ready") < 4:
        said += os.read(terminal, 4_096)
    roles = roles_of(worker)
    os.close(terminal)
    assert worker.wait(60) == 0
    assert not any(role.is_running() for role in roles.values())


def test_without_postgresql_nothing_is_archived_and_that_is_said(line: CommandLine) -> None:
    del line.environment["SLUICEGATE_POSTGRES__DSN"]
    worker = line.start("worker", log="worker")
    others = {"ingest", "aggregate", "account"}
    line.until(lambda: set(roles_of(worker)) == others, "the others run", log="worker")
    assert "nothing is archived" in log_of(line)
    code, _, err = line.run("worker", "--roles", "archive")
    assert code == 2
    assert "needs PostgreSQL" in err


def test_a_web_port_in_use_is_told_by_its_setting_before_anything_starts(line: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line.environment["SLUICEGATE_WORKER__WEB_PORT"] = str(port := taken.getsockname()[1])
        worker = line.worker("ingest")
        assert worker.wait(60) == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in log_of(line)
    assert "SLUICEGATE_WORKER__WEB_PORT" in log_of(line)
    assert "partition ready" not in log_of(line)


@pytest.mark.timeout(120)
def test_a_worker_says_how_far_each_partition_is_behind(line: CommandLine, registered_schemas: str) -> None:
    first = consecutive_ports(2)
    line.environment["SLUICEGATE_WORKER__WEB_PORT"] = str(first)
    started(line, "aggregate", "ingest")
    port = first + 1  # in the order in which they are named
    lags: dict[str, float] = {}

    def caught_up() -> bool:
        lags.clear()
        try:
            text = httpx2.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, verify=False).text
        except httpx2.TransportError:  # the partitions that were waited for were all of the other role
            return False
        for row in text.splitlines():
            if row.startswith("sluicegate_lag_records{"):
                name, _, value = row.rpartition(" ")
                lags[name] = float(value)
        return sorted(lags.values()) == [0.0] * 4

    line.until(caught_up, "all four partitions have nothing to wait for", log="worker")
    assert all("streams.input.v1" in name for name in lags)
    listens = [json.loads(row) for row in log_of(line).splitlines() if '"web listens"' in row]
    assert {(row["role"], row["port"]) for row in listens} == {("aggregate", first), ("ingest", port)}


@pytest.mark.timeout(120)
def test_a_service_that_does_not_answer_at_the_start_ends_the_worker_with_its_name(line: CommandLine) -> None:
    line.environment["SLUICEGATE_REGISTRY__URL"] = "http://127.0.0.1:9/apis/ccompat/v7"
    worker = line.worker("ingest")
    assert worker.wait(100) == 3, log_of(line)
    assert "schema registry at http://127.0.0.1:9/apis/ccompat/v7 cannot be reached" in log_of(line)
    assert "role ingest ended by itself" in log_of(line)
    assert "Traceback" not in log_of(line)
