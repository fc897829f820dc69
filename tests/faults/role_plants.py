"""Defects planted into our own roles, which run as processes: a ``sitecustomize`` puts them in.

Each is one that the row of the fault matrix could really have; the checker must find it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from connectors.postgres.sink import ArchiveSink
from connectors.registry import Registry
from pipelines.ingest import Ingest
from schemas.errors import RegistryUnavailable, UnknownSchemaId
from schemas.topics import DEAD_LETTERS
from state.checkpoint import UnitOfWork

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


def keeps_what_failed() -> None:
    """Outputs of a unit that failed are still there when it is done again."""
    commit, append = UnitOfWork._commit, UnitOfWork._append
    kept: dict[int, list[Any]] = {}

    def committed(unit: Any) -> Any:
        staged = {number: list(scope.appends) for (_, number), scope in unit._scopes.items()}
        try:
            return commit(unit)
        except BaseException:
            kept.update(staged)
            raise

    def appended(unit: Any, result: Any) -> None:
        for (_, number), scope in unit._scopes.items():
            scope.appends[:0] = kept.pop(number, [])
        append(unit, result)

    UnitOfWork._commit, UnitOfWork._append = committed, appended  # type: ignore[method-assign]


def loses_dead_letters() -> None:
    """What cannot be read is passed over, and nobody is told."""
    append = UnitOfWork._append

    def lose(unit: Any, result: Any) -> None:
        for scope in unit._scopes.values():
            scope.appends[:] = [each for each in scope.appends if each.topic is not DEAD_LETTERS]
        append(unit, result)

    UnitOfWork._append = lose  # type: ignore[method-assign]


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
