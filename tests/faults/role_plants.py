"""Defects planted into our own roles, which run as processes: a ``sitecustomize`` puts them in.

Each is one that the row of the fault matrix could really have; the checker must find it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from connectors.postgres.sink import ArchiveSink
from connectors.registry import Registry
from pipelines.ingest import Ingest
from schemas.errors import RegistryUnavailable, UnknownSchemaId
from schemas.topics import DEAD_LETTERS
from state.checkpoint import UnitOfWork

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
HALF_AN_HOUR_US = 1_800 * 10**6


def python_with(folder: Path, code: str) -> dict[str, str]:
    """Environment of a Python that runs ``code`` first; ``folder`` is made for it."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def plant(name: str) -> str:
    """Return the code that plants a defect."""
    return f"from tests.faults import role_plants\nrole_plants.{name}()\n"


def planted(folder: Path, name: str) -> dict[str, str]:
    """Environment of a worker with a defect."""
    return python_with(folder / "planted", plant(name))


def _before_append(harm: Callable[[Any], None]) -> None:
    append = UnitOfWork._append

    def harmed(unit: Any, result: Any) -> None:
        for scope in unit._scopes.values():
            harm(scope)
        append(unit, result)

    UnitOfWork._append = harmed  # type: ignore[method-assign]


def outputs_twice() -> None:
    """What was appended before a failure is appended again."""
    _before_append(lambda scope: scope.appends.extend(list(scope.appends)))


def loses_dead_letters() -> None:
    """What cannot be read is passed over, and nobody is told."""

    def lose(scope: Any) -> None:
        scope.appends[:] = [each for each in scope.appends if each.topic is not DEAD_LETTERS]

    _before_append(lose)


def gives_up_on_the_registry() -> None:
    """A registry that does not answer is taken for one that has no such schema."""
    ask = Registry.schema_of

    def schema_of(registry: Registry, schema_id: int) -> str:
        try:
            return ask(registry, schema_id)
        except RegistryUnavailable:
            raise UnknownSchemaId(schema_id, registry.url) from None

    Registry.schema_of = schema_of  # type: ignore[method-assign]


def goes_by_its_own_clock() -> None:
    """Events are judged by the time of the machine, not by that of their log."""
    one = Ingest._one

    def judged(ingest: Ingest, turn: Any, record: Any, item: Any) -> None:
        if abs(record.timestamp_us - time.time_ns() // 1_000) > HALF_AN_HOUR_US:
            turn.scope.dead_letter(record, "TooOld", "planted")
        else:
            one(ingest, turn, record, item)

    Ingest._one = judged  # type: ignore[method-assign]


def moves_on_without_rows() -> None:
    """PostgreSQL's position moves, and the rows are not stored."""
    ArchiveSink._store = lambda *_: 0  # type: ignore[method-assign]
