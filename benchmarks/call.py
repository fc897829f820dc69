"""One call of a benchmark: a stack of its own, one work after the other, and all of it stopped in the end."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, TypeVar

from benchmarks.asked import Misspelt
from benchmarks.bench import NotHad, say
from benchmarks.goals import judged, missed
from benchmarks.results import failed, show
from ops.settings import Settings
from ops.stack.down import down
from ops.stack.up import ensure_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from benchmarks.goals import Goal
    from benchmarks.results import Line
    from ops.settings import StackSettings
    from ops.stack.addresses import Addresses


class Wanted(Protocol):
    """What every benchmark is asked for."""

    @property
    def works(self) -> tuple[str, ...]:
        """By their names, in their order."""

    @property
    def goals(self) -> bool:
        """Whether a goal that is missed is an exit code."""

    @property
    def as_json(self) -> bool:
        """Whether an object a line, as soon as it is there, is wanted in place of tables."""


class Show(Protocol):
    """Prints the lines of one work."""

    def __call__(self, lines: Sequence[Line], *, as_json: bool) -> None:
        """Print them."""


W = TypeVar("W", bound=Wanted)


def call(
    asked: Callable[[Mapping[str, str]], W],
    works: Callable[[Addresses, Settings, W], AbstractContextManager[Callable[[str], Iterable[Line]]]],
    *,
    prepare: Callable[[Settings], object] = lambda _: None,
    printed: Show = show,
    stack: StackSettings | None = None,
    goals: Mapping[str, Sequence[Goal]] = MappingProxyType({}),
) -> int:
    """Measure what the environment asks for, by ``works``, which does a work by its name.

    ``prepare`` comes before anything is started, and raises NotHad. ``goals`` are those of each work. Returns
    the exit code: 1 if a result of ours was not verified, a work broke, or (if they are asked for) a goal was
    missed, 2 if something was misspelt or cannot be had.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped then too
    with tempfile.TemporaryDirectory(prefix="sluicegate-bench-", ignore_cleanup_errors=True) as name:
        settings = Settings(data_dir=Path(name), **({"stack": stack} if stack else {}))
        try:
            wanted = asked(os.environ)
            prepare(settings)
        except (Misspelt, NotHad) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        try:
            say("starting Kafka, registry and PostgreSQL")
            with works(ensure_up(settings), settings, wanted) as measure:
                done = [_done(measure, work, printed, goals.get(work, ()), wanted) for work in wanted.works]
        finally:
            down(settings)
    return 0 if all(done) else 1


def _done(
    measure: Callable[[str], Iterable[Line]], work: str, printed: Show, goals: Sequence[Goal], wanted: Wanted
) -> bool:
    """Do one work and show it; one that breaks does not take the figures of the others with it."""
    lines: list[Line] = []
    whole = True
    try:
        for line in measure(work):
            lines.append(judged(line, goals))
            if wanted.as_json:
                printed(lines[-1:], as_json=True)
    except Exception:  # noqa: BLE001  whatever it is: hours of other works may be behind or before it
        say(f"{work} failed")
        traceback.print_exc()
        whole = False
    if not wanted.as_json:
        printed(lines, as_json=False)
    short = missed(lines)
    for said in short:
        say(f"{work}: a goal is missed by {said}")
    return whole and not failed(lines) and not (wanted.goals and short)
