"""No process that we start outlives us, not even when we are killed by SIGKILL (on Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(then: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """Make a ``preexec_fn`` that asks the kernel to send ``then`` to the child when we die.

    The kernel means the thread that started the child, so start children from the main thread. Only
    Linux has this; elsewhere a child outlives a parent that was killed so, and only that one.
    """
    if sys.platform != "linux":
        return lambda: None
    libc = ctypes.CDLL(None, use_errno=True)  # loaded before the fork: a forked child should load nothing
    parent = os.getpid()

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(then), 0, 0, 0)
        if os.getppid() != parent:  # it died between the fork and the line above
            os._exit(128 + int(then))

    return ask_kernel


def signal_group(group: int, number: signal.Signals) -> None:
    """Send a signal to a process group that may be gone."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
    except PermissionError:  # macOS says so of a group whose members are all zombies
        return
