"""What can go wrong with the local stack.

OpsError
└── StackError
    ├── Unsuitable       this machine lacks something; each with its remedy, named before anything is fetched
    ├── BrokenDownload   an artefact did not arrive as it is locked
    ├── PortTaken        a port that was asked for is in use
    ├── PartFailed       a part ended, or did not answer in time; the end of its log is shown
    ├── StackBusy        another process starts or stops the same stack
    ├── StillInUse       a worker or an edge works with the folder that is to be removed
    └── BadState         the record of what runs cannot be read
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops.errors import OpsError
from ops.stack.users import how_to_stop, listed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ops.stack.users import User


class StackError(OpsError):
    """The local stack cannot do what was asked; the remedy says what to do."""


class Unsuitable(StackError):
    """Something that the local stack needs is missing on this machine: do what each remedy says."""

    def __init__(self, lacks: Sequence[tuple[str, str]]) -> None:
        super().__init__(
            "this machine is not ready for the local stack:"
            + "".join(f"\n  - {problem}\n    remedy: {remedy}" for problem, remedy in lacks),
            "nothing was downloaded or started; instead of the local stack, services of your own can be set "
            "(SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS, SLUICEGATE_REGISTRY__URL, SLUICEGATE_POSTGRES__DSN)",
        )
        self.lacks = tuple(lacks)


class BrokenDownload(StackError):
    """An artefact did not arrive whole and as locked: try again, or name another mirror."""

    def __init__(self, artefact: str, problem: str) -> None:
        super().__init__(
            f"download of {artefact}: {problem}",
            "run it again: what arrived is kept and resumed; behind a proxy set HTTPS_PROXY; "
            "another repository is set by SLUICEGATE_STACK__MAVEN_REPOSITORY",
        )
        self.artefact = artefact


class PortTaken(StackError):
    """A configured port is in use: free it, or configure another (0 takes a free one)."""

    def __init__(self, part: str, port: int, setting: str, holder: str) -> None:
        super().__init__(
            f"port {port} on 127.0.0.1, asked for by {setting} for {part}, is in use by {holder}",
            f"stop that process, or set {setting} to another port; 0 takes a free one",
        )
        self.port = port


class PartFailed(StackError):
    """A part ended or stayed silent: read the end of its log, which is shown."""

    def __init__(self, part: str, problem: str, log: Path, last_lines: Sequence[str]) -> None:
        shown = "".join(f"\n    | {line}" for line in last_lines) or "\n    | (empty)"
        super().__init__(
            f"{part} {problem}; the end of its log:{shown}",
            f"the whole log is {log}; if its data is damaged, `sluicegate down --wipe` removes it",
        )
        self.part = part
        self.log = log


class StackBusy(StackError):
    """Another process is starting or stopping this stack: wait for it, or end it."""

    def __init__(self, lock: Path, waited_s: float) -> None:
        super().__init__(
            f"another process has held {lock} for more than {waited_s:.0f} s",
            "wait until it is done, or end it; the lock goes with its process",
        )


class StillInUse(StackError):
    """A worker or an edge works with the folder that is to be removed: stop it first."""

    def __init__(self, folder: Path, users: Sequence[User]) -> None:
        super().__init__(
            f"{folder} is not removed: it is in use by {listed(users)}",
            f"{how_to_stop(users)}, and run this again; nothing was stopped",
        )


class BadState(StackError):
    """The record of what runs cannot be read: remove it once nothing of it runs."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"{path}: {problem}", "if nothing of the stack runs any more, remove this file and run it again"
        )
