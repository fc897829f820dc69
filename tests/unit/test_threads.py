"""An executor whose work may be left behind, and that keeps nothing alive."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref

import pytest

from connectors.threads import DaemonExecutor

pytestmark = pytest.mark.timeout(30)


def named(name):
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def until(holds):
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_results_and_errors_are_told_in_turn():
    executor = DaemonExecutor(1, "turn")
    done = [executor.submit(pow, 2, n) for n in range(5)]
    with pytest.raises(ZeroDivisionError):
        executor.submit(divmod, 1, 0).result(5)
    assert [future.result(5) for future in done] == [1, 2, 4, 8, 16]
    executor.shutdown()


def test_what_has_not_begun_is_cancelled_and_nobody_waits_for_what_has():
    executor = DaemonExecutor(1, "cancelled")
    begun, never = threading.Event(), threading.Event()
    executor.submit(lambda: (begun.set(), never.wait(20)))
    assert begun.wait(5)
    waiting = executor.submit(pow, 2, 2)
    executor.shutdown()
    assert waiting.cancelled()
    never.set()
    until(lambda: not named("cancelled"))


def test_a_thread_that_waits_keeps_nothing_of_what_it_did_and_ends_with_its_executor():
    class Connection:
        def ask(self):
            return self

    executor, connection = DaemonExecutor(2, "kept"), Connection()
    assert executor.submit(connection.ask).result(5) is connection
    gone = weakref.ref(connection)
    del connection
    until(lambda: gc.collect() >= 0 and gone() is None)
    del executor
    until(lambda: gc.collect() >= 0 and not named("kept"))


def test_the_interpreter_ends_though_a_call_does_not():
    code = (
        "import threading; from connectors.threads import DaemonExecutor; began = threading.Event();"
        "DaemonExecutor(1, 'hangs').submit(lambda: (began.set(), threading.Event().wait())); began.wait()"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 0
