"""What a role's process has its C library do with memory, seen from outside of it."""

from __future__ import annotations

import platform
import re
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys, threading
from connectors import heap

if sys.argv[1] == "bound":
    heap.bound_what_is_free()
all_there = threading.Barrier(6)

def work():
    kept = [bytes(2_000) for _ in range(100)]  # too large for the pools of Python's own
    all_there.wait()
    return kept

large = [bytearray(8_000_000) for _ in range(9)]
del large  # by default, what is as large comes from the heap from now on
large = [bytearray(1_000_000) for _ in range(9)]

threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no arenas a thread")
@pytest.mark.parametrize("how", ["bound", "free"])
def test_threads_share_what_was_freed_and_large_blocks_are_given_back_at_once(how):
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    arenas = done.stdout.count("<heap nr=")
    (large,) = re.findall(r'<total type="mmap" count="(\d+)"', done.stdout)
    if how == "bound":
        assert arenas == 2
        assert int(large) >= 9
    else:
        assert arenas > 2
        assert int(large) < 9
