"""A process and its children: processor seconds since their start, peak of memory, and their end."""

from __future__ import annotations

import subprocess
import threading
from typing import Final

import psutil

PERIOD_S: Final = 0.2
STOP_S: Final = 60.0


class Meter:
    """Samples a process tree until it is stopped; memory of shared pages counts for each process."""

    def __init__(self, pid: int) -> None:
        self._parent = psutil.Process(pid)
        self._cpu_s: dict[int, float] = {}  # by process: one that has ended keeps what it took
        self._rss_max = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def cpu_s(self) -> float:
        """Processor seconds since the processes' start, as of the last sample."""
        return sum(tuple(self._cpu_s.values()))

    def stop(self) -> tuple[float, int]:
        """Stop; returns processor seconds and MB."""
        self._stop.set()
        self._thread.join()
        self._sample()
        return sum(self._cpu_s.values()), self._rss_max >> 20

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._sample()

    def _sample(self) -> None:
        rss = 0
        try:
            tree = [self._parent, *self._parent.children(recursive=True)]
        except psutil.Error:
            return
        for process in tree:
            try:
                self._cpu_s[process.pid] = sum(process.cpu_times()[:2])
                rss += process.memory_info().rss
            except psutil.Error:
                continue
        self._rss_max = max(self._rss_max, rss)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it started, at once."""
    try:
        parent = psutil.Process(process.pid)
        tree = [parent, *parent.children(recursive=True)]
    except psutil.Error:
        tree = []
    for each in tree:
        try:
            each.kill()
        except psutil.Error:
            continue
    process.wait()


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started: politely, then not."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        children = []
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:
        if child.is_running():
            child.kill()
