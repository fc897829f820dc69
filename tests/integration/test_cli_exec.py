"""`sluicegate exec` as a process, with real commands; the edge is a twin that fails when told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.edge_twin import EdgeTwin, running_twin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PYTHON = sys.executable


@pytest.fixture
def twin() -> Iterator[EdgeTwin]:
    with running_twin() as running:
        yield running


def start(twin: EdgeTwin, *words: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    environment = os.environ | {"SLUICEGATE_EDGE__URL": twin.url}
    return subprocess.Popen(
        [PYTHON, "-m", "ops", *words],
        env=environment,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C of the test run is not one for it
    )


def execute(twin: EdgeTwin, *words: str) -> tuple[int, bytes, bytes]:
    process = start(twin, "exec", "--stream", "s", *words)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def seqs_of(twin: EdgeTwin) -> list[int]:
    return [event["seq"] for event in twin.streams["s"]]


def test_every_line_is_streamed_once_in_order_between_open_and_end(twin: EdgeTwin) -> None:
    code, out, _ = execute(twin, "--", "sh", "-c", "seq 5000; echo done >&2")
    assert code == 0
    assert out == b"".join(b"%d\n" % n for n in range(1, 5001))
    assert [line for line in twin.lines("s") if line != "done"] == [str(n) for n in range(1, 5001)]
    assert {"level": "info", "stream": "stderr", "line": "done"} in twin.of_type("s", "log")
    assert [e["type"] for e in twin.streams["s"][:: len(twin.streams["s"]) - 1]] == ["open", "end"]
    assert seqs_of(twin) == list(range(5003))
    assert twin.of_type("s", "end") == [{"reason": "completed", "message": "", "exit_code": 0}]
    assert {event["source"] for event in twin.streams["s"]} == {"sh"}


@pytest.mark.parametrize(
    ("script", "code", "end"),
    [
        ("exit 7", 7, {"reason": "upstream_error", "message": "exit code 7", "exit_code": 7}),
        ("kill -9 $$", 137, {"reason": "upstream_error", "message": "ended by SIGKILL", "exit_code": 137}),
    ],
)
def test_a_command_that_fails_ends_its_stream_so_and_its_code_is_passed_on(
    twin: EdgeTwin, script: str, code: int, end: dict[str, object]
) -> None:
    assert execute(twin, "--", "sh", "-c", script)[0] == code
    assert twin.of_type("s", "end") == [end]


def test_a_line_is_there_while_the_command_still_runs(twin: EdgeTwin) -> None:
    process = start(twin, "exec", "--stream", "s", "--", "sh", "-c", "echo first; sleep 20")
    until(lambda: twin.lines("s") == ["first"])
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)


def test_ctrl_c_reaches_the_command_and_ends_the_stream_as_cancelled(twin: EdgeTwin) -> None:
    script = "trap 'echo tidying; exit 3' INT; echo up; while :; do sleep 0.05; done"
    process = start(twin, "exec", "--stream", "s", "--", "sh", "-c", script)
    until(lambda: twin.lines("s") == ["up"])
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 3
    assert twin.lines("s") == ["up", "tidying"]
    assert twin.of_type("s", "end")[0]["reason"] == "cancelled"


def test_under_nohup_a_terminal_that_is_closed_ends_nothing(twin: EdgeTwin, tmp_path: Path) -> None:
    goes_on = tmp_path / "goes-on"
    script = f"echo up; while ! [ -e {goes_on} ]; do sleep 0.05; done; echo on"
    process = subprocess.Popen(
        ["nohup", PYTHON, "-m", "ops", "exec", "--stream", "s", "--", "sh", "-c", script],
        env=os.environ | {"SLUICEGATE_EDGE__URL": twin.url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: twin.lines("s") == ["up"])
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)  # a handler would have run
    goes_on.touch()
    assert process.wait(20) == 0
    assert twin.lines("s") == ["up", "on"]
    assert twin.of_type("s", "end")[0]["reason"] == "completed"


def test_what_cannot_be_shown_here_still_reaches_the_stream(twin: EdgeTwin, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123  # every write to it says: no space left
        process = subprocess.Popen(
            [
                PYTHON,
                "-m",
                "ops",
                "exec",
                "--stream",
                "s",
                "--",
                "sh",
                "-c",
                "echo one; echo two >&2; exit 4",
            ],
            env=os.environ | {"SLUICEGATE_EDGE__URL": twin.url},
            stdout=full,
            stderr=full,
        )
    assert process.wait(20) == 4
    assert sorted(twin.lines("s")) == ["one", "two"]
    assert twin.of_type("s", "end")[0]["reason"] == "upstream_error"


def test_a_second_ctrl_c_kills_a_command_that_does_not_listen(twin: EdgeTwin) -> None:
    script = "trap '' INT; echo up; while :; do sleep 0.05; done"
    process = start(twin, "exec", "--stream", "s", "--", "sh", "-c", script)
    until(lambda: twin.lines("s") == ["up"])
    process.send_signal(signal.SIGINT)
    time.sleep(0.7)  # two within half a second count as one
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 137
    assert twin.of_type("s", "end")[0]["reason"] == "cancelled"


def test_a_cancel_that_a_client_asked_for_stops_the_command(twin: EdgeTwin) -> None:
    process = start(twin, "exec", "--stream", "s", "--", "sh", "-c", "echo up; sleep 60")
    until(lambda: twin.lines("s") == ["up"])
    twin.take("s", {"type": "cancel", "payload": {"by": "ann", "reason": "wrong branch"}})
    process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM
    assert twin.of_type("s", "end")[0] | {"exit_code": 0} == {
        "reason": "cancelled",
        "message": "asked for by ann: wrong branch",
        "exit_code": 0,
    }


def test_a_cancel_is_heard_also_after_the_edge_was_away_for_longer_than_the_patience(twin: EdgeTwin) -> None:
    process = start(
        twin, "exec", "--stream", "s", "--patience-s", "0.2", "--", "sh", "-c", "echo up; sleep 60"
    )
    until(lambda: twin.lines("s") == ["up"])
    twin.away = True
    time.sleep(1.5)  # no test of time: with less, this would prove less
    twin.away = False
    twin.take("s", {"type": "cancel", "payload": {"by": "ann"}})
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert twin.of_type("s", "end")[0]["message"] == "asked for by ann"


def test_what_the_edge_refuses_for_a_while_or_loses_the_answer_to_is_neither_lost_nor_doubled(
    twin: EdgeTwin,
) -> None:
    process = start(
        twin, "exec", "--stream", "s", "--", "sh", "-c", "for i in $(seq 40); do echo $i; sleep 0.02; done"
    )
    until(lambda: len(twin.lines("s")) > 3)
    twin.faults += [503, "drop", 502, "drop", 429]
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert twin.lines("s") == [str(n) for n in range(1, 41)]
    assert seqs_of(twin) == list(range(42))


def test_while_the_edge_is_slow_the_command_waits_and_nothing_is_lost(twin: EdgeTwin, tmp_path: Path) -> None:
    progress = tmp_path / "written"
    script = (
        "import sys\n"
        "for n in range(60000):\n"
        "    print('x' * 200, n, flush=False)\n"
        f"open({str(progress)!r}, 'w').write('all')\n"
    )
    process = start(twin, "exec", "--stream", "s", "--quiet", "--", PYTHON, "-c", script)
    until(lambda: bool(twin.streams["s"]))
    twin.hold.clear()
    time.sleep(1.5)
    assert not progress.exists(), "the command ran ahead of a full outbox"
    twin.hold.set()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert [int(line.split()[1]) for line in twin.lines("s")] == list(range(60000))


def test_when_the_edge_stays_away_the_command_goes_on_and_what_is_missing_is_counted(twin: EdgeTwin) -> None:
    process = start(
        twin,
        "exec",
        "--stream",
        "s",
        "--patience-s",
        "0.5",
        "--",
        "sh",
        "-c",
        "echo 1; sleep 0.5; seq 2 10; sleep 2; echo 11",
    )
    until(lambda: twin.lines("s") == ["1"])
    twin.faults += [503] * 100
    out, err = process.communicate(timeout=30)
    assert out.split() == [b"%d" % n for n in range(1, 12)]
    assert process.returncode == 3
    assert b"10 lines of the command may not be in the stream" in err


def test_strict_stops_the_command_when_its_stream_can_no_longer_be_delivered(twin: EdgeTwin) -> None:
    process = start(
        twin,
        "exec",
        "--stream",
        "s",
        "--strict",
        "--patience-s",
        "0.3",
        "--",
        "sh",
        "-c",
        "echo 1; sleep 0.5; echo 2; sleep 60",
    )
    until(lambda: twin.lines("s") == ["1"])
    twin.faults += [503] * 100
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM


def test_without_an_edge_the_command_is_not_started(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    nobody = EdgeTwin()
    nobody.url = "http://127.0.0.1:9"
    process = start(nobody, "exec", "--", "touch", str(marker))
    _, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert b"touch was not run: the edge at http://127.0.0.1:9 does not answer" in err
    assert b"its edge, Kafka, or a worker with ingest is waited for" in err, "it says so meanwhile"
    assert b"sluicegate edge" in err
    assert not marker.exists()


def test_a_secret_of_the_command_line_or_of_the_edges_address_is_shown_to_nobody(twin: EdgeTwin) -> None:
    command = ("echo", "postgresql://me:s3cret@db/x", "--api-key=s3cret", "--password", "s3cret", "fine")
    code, out, _ = execute(twin, "--", *command)
    assert code == 0
    assert out.count(b"s3cret") == 3, "the command itself gets its words as they are"
    title = twin.of_type("s", "open")[0]["title"]
    assert title == "echo postgresql://me:***@db/x --api-key=*** --password *** fine"

    nobody = EdgeTwin()
    nobody.url = "http://me:s3cret@127.0.0.1:9"
    _, err = start(nobody, "exec", "--", "true").communicate(timeout=30)
    assert b"http://me:***@127.0.0.1:9" in err
    assert b"s3cret" not in err


def test_a_redirect_is_no_answer_of_an_edge(twin: EdgeTwin, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    twin.faults.append(301)
    code, _, err = execute(twin, "--", "touch", str(marker))
    assert code == 1
    assert b"does not answer as an edge does: HTTP 301 with application/json" in err
    assert not marker.exists()


def test_a_stream_that_is_somebody_elses_is_left_alone(twin: EdgeTwin, tmp_path: Path) -> None:
    twin.verdict = "second_open"
    marker = tmp_path / "ran"
    code, _, err = execute(twin, "--", "touch", str(marker))
    assert code == 1
    assert b"error: touch was not run: stream s: second_open" in err
    assert not marker.exists()


def test_a_command_that_is_none_opens_no_stream(twin: EdgeTwin) -> None:
    code, _, err = execute(twin, "--", "no-such-command-here")
    assert code == 127
    assert b"command not found" in err
    assert not twin.requests


def test_garbage_long_lines_and_a_missing_last_newline_all_arrive(twin: EdgeTwin) -> None:
    script = "import sys; sys.stdout.buffer.write(b'\\xff\\xfe\\x00\\n' + b'y' * 200_000 + b'\\nno newline')"
    code, _, _ = execute(twin, "--quiet", "--", PYTHON, "-c", script)
    assert code == 0
    logs = twin.of_type("s", "log")
    assert logs[0]["line"] == "\ufffd\ufffd\x00"
    assert "".join(log["line"] for log in logs[1:-1]) == "y" * 200_000
    assert logs[-1]["line"] == "no newline"


def test_a_bar_becomes_progress_and_its_last_state_is_there(twin: EdgeTwin) -> None:
    script = "import sys\nfor n in range(101): sys.stdout.write(f'\\r{n}% done'); sys.stdout.flush()\nprint()"
    assert execute(twin, "--", PYTHON, "-c", script)[0] == 0
    shown = twin.of_type("s", "progress")
    assert shown[-1]["done"] == 100
    assert len(shown) < 50


def test_on_a_terminal_of_its_own_a_command_does_not_hold_its_lines_back(twin: EdgeTwin) -> None:
    script = "import sys, time; print(sys.stdout.isatty()); time.sleep(20)"
    process = start(twin, "exec", "--stream", "s", "--pty", "--", PYTHON, "-c", script)
    until(lambda: twin.lines("s") == ["True"])
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert twin.of_type("s", "end")[0]["reason"] == "cancelled"


def test_what_is_piped_in_reaches_the_command(twin: EdgeTwin) -> None:
    process = start(twin, "exec", "--stream", "s", "--", "cat", stdin=subprocess.PIPE)
    process.communicate(b"one\ntwo\n", timeout=20)
    assert process.returncode == 0
    assert twin.lines("s") == ["one", "two"]


def test_a_background_process_that_keeps_the_output_open_does_not_keep_the_stream_open(
    twin: EdgeTwin,
) -> None:
    code, _, _ = execute(twin, "--", "sh", "-c", "sleep 90 & echo hi")  # waits for 30 s at most
    assert code == 0
    assert twin.lines("s") == ["hi"]


def test_a_killed_exec_takes_its_command_with_it(twin: EdgeTwin) -> None:
    process = start(twin, "exec", "--stream", "s", "--", "sh", "-c", "echo $$; exec sleep 60")
    until(lambda: len(twin.lines("s")) == 1)
    command = int(twin.lines("s")[0])
    process.kill()
    process.communicate(timeout=10)

    def gone() -> bool:
        try:
            os.kill(command, 0)
        except ProcessLookupError:
            return True
        return psutil.Process(command).status() == psutil.STATUS_ZOMBIE

    until(gone)


def test_a_signal_in_the_moment_of_the_start_is_not_lost(twin: EdgeTwin) -> None:
    for delay_s in (0.0, 0.01, 0.02, 0.03, 0.05):
        stream = f"early-{delay_s}"
        process = start(twin, "exec", "--stream", stream, "--", "sleep", "30")
        until(lambda stream=stream: bool(twin.streams[stream]))
        time.sleep(delay_s)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=15)
        assert process.returncode == 128 + signal.SIGTERM
        assert twin.of_type(stream, "end")[0]["reason"] == "cancelled"


def test_a_silent_command_says_in_time_that_it_lives(twin: EdgeTwin) -> None:
    process = start(twin, "exec", "--stream", "s", "--idle-timeout-s", "1.5", "--", "sleep", "60")
    until(lambda: len(twin.of_type("s", "state")) >= 3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert twin.of_type("s", "state")[0]["name"] == "running"
    assert twin.of_type("s", "open")[0]["idle_timeout_ms"] == 1500
