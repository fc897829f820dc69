"""Agents from outside of this repository: a folder of modules, each a role of its own.

The folder that ``SLUICEGATE_PIPELINES`` names holds ``<role>.py`` files and ``schemas/<subject>.avsc``. A
module has ``register(app, tools, options)`` and may have ``TOPICS``, ``KINDS``, ``MIGRATIONS`` of its state,
the ``GENERATION`` that it is, and ``READS`` (its inputs, if not our output alone); ``TICKS`` and ``WRITES``
add to the ACLs that its sources ask for. ``sluicegate new agent`` writes one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.errors import AgentRefused
from pipelines.generations import FIRST
from pipelines.own_migrations import MIGRATIONS
from schemas.access import ROLES as OURS
from schemas.access import Access
from schemas.catalog import schemas_of, subjects
from schemas.kinds import BUILTIN_KINDS, Kind, KindTable, RunbookPolicy
from schemas.topics import DEAD_LETTERS, OUTPUT, TOPICS, TopicSpec
from state.schema import Migration

if TYPE_CHECKING:
    from pathlib import Path
    from types import CodeType, ModuleType

    from pipelines.options import WorkerOptions
    from pipelines.role import RoleApp
    from pipelines.tools import Tools

Named = TypeVar("Named", TopicSpec, Kind)
Register = Callable[["RoleApp", "Tools", "WorkerOptions"], None]
ROLE_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
OUR_ROLES = tuple(OURS)
_PAGES = frozenset(page for kind in BUILTIN_KINDS for page in astuple(kind.runbooks))


@dataclass(frozen=True, slots=True)
class Extension:
    """What a user's folder adds to ours."""

    roles: Mapping[str, Sequence[Register]] = field(default_factory=dict)
    """Agents by role."""
    topics: Sequence[TopicSpec] = ()
    """Topics that they need, changelogs among them; created at the start of each of their roles."""
    schemas: Mapping[str, str] = field(default_factory=dict)
    """Avro texts by subject, registered at the start."""
    kinds: Sequence[Kind] = ()
    access: Mapping[str, Access] = field(default_factory=dict)
    """Topics by role, for `sluicegate topics acls`."""
    migrations: Sequence[Migration] = ()
    """Of the stores of its agents."""
    generations: Mapping[str, int] = field(default_factory=dict)
    """By role; one that is not named is of the first."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the code, by role."""

    def generation(self, role: str) -> int:
        """Return which generation of a role this code is."""
        return self.generations.get(role, FIRST)

    def all_topics(self) -> tuple[TopicSpec, ...]:
        """Return our topics and these."""
        return (*TOPICS, *self.topics)

    def all_migrations(self) -> tuple[Migration, ...]:
        """Return our migrations and these."""
        return (*MIGRATIONS, *self.migrations)

    def all_kinds(self) -> KindTable:
        """Return our kinds and these."""
        return KindTable((*BUILTIN_KINDS, *self.kinds))


def refuse(error: AgentRefused) -> None:
    """Raise what is wrong with a file."""
    raise error


def load(folder: Path | None, refused: Callable[[AgentRefused], None] = refuse) -> Extension:
    """Load the agents of a folder; nothing if it is None.

    ``refused`` is told of each file that cannot be used; if it returns, the others are loaded.

    Raises:
        AgentRefused: there is no such folder, or one of its files cannot be used; it is named.
    """
    if folder is None:
        return Extension()
    if not folder.is_dir():
        raise AgentRefused(folder, "there is no such folder", "correct SLUICEGATE_PIPELINES")
    roles: dict[str, Sequence[Register]] = {}
    topics: dict[str, TopicSpec] = {}
    kinds: dict[str, Kind] = {}
    access: dict[str, Access] = {}
    migrations: list[Migration] = []
    generations: dict[str, int] = {}
    versions: dict[str, str] = {}
    ours = {spec.name for spec in TOPICS}
    for file in sorted(folder.glob("[!_]*.py")):
        try:
            module = _imported(file)
            its = (_register(module, file),), _access(module, file), _generation(module, file)
            its_migrations = list(_declared(module, "MIGRATIONS", Migration, file))
            for spec in _declared(module, "TOPICS", TopicSpec, file):
                _add(spec, topics, ours, "topic", file)
            for kind in _declared(module, "KINDS", Kind, file):
                _add(kind, kinds, BUILTIN_KINDS, "kind", file)
                _check_pages(kind, folder, file)
        except AgentRefused as error:
            refused(error)
            continue
        roles[file.stem], access[file.stem], generations[file.stem] = its
        versions[file.stem] = _version(module, file)
        migrations += its_migrations
    schemas: Mapping[str, str] = {}
    try:
        schemas = _schemas(folder / "schemas")
    except AgentRefused as error:
        refused(error)
    return Extension(
        roles,
        tuple(topics.values()),
        schemas,
        tuple(kinds.values()),
        access,
        tuple(migrations),
        generations,
        versions,
    )


def _add(declared: Named, added: dict[str, Named], ours: Container[str], what: str, file: Path) -> None:
    """Raise AgentRefused if the name is ours, or another module's for something else."""
    if declared.name in ours or added.setdefault(declared.name, declared) != declared:
        raise AgentRefused(file, f"{what} {declared.name} is declared elsewhere, and otherwise")


def _schemas(folder: Path) -> Mapping[str, str]:
    try:
        schemas = schemas_of(folder)
    except ValueError as error:
        raise AgentRefused(folder, str(error)) from None
    if taken := schemas.keys() & subjects().keys():
        raise AgentRefused(folder, f"{', '.join(sorted(taken))}: a subject of sluicegate's own")
    return schemas


class _FromSource(SourceFileLoader):
    """Loads what a file says, never a cache of bytecode beside it.

    One holds for as long as a file's second of change and size are the same, so that a deploy by an archive,
    or an image, whose files have times of their own would run the code before it, under the new version.
    """

    def get_code(self, fullname: str) -> CodeType:
        """See ``importlib.abc.InspectLoader``."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _imported(file: Path) -> ModuleType:
    if not ROLE_NAME.fullmatch(file.stem) or file.stem in OUR_ROLES:
        raise AgentRefused(
            file,
            f"{file.stem!r} is no name for a role",
            f"use a-z, 0-9 and _, beginning with a letter, and none of {', '.join(OUR_ROLES)}",
        )
    name = f"sluicegate_agents.{file.stem}"
    spec = spec_from_file_location(name, file, loader=_FromSource(name, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look a module up by its name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise AgentRefused(file, f"it cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _access(module: ModuleType, file: Path) -> Access:
    """What a module's agent does: it reads ``READS``, else our output, and owns ``TOPICS``."""
    reads, ticks, writes, own = (
        tuple(_declared(module, name, TopicSpec, file)) for name in ("READS", "TICKS", "WRITES", "TOPICS")
    )
    # A module does not say which of its topics are changelogs.
    return Access(reads or (OUTPUT,), (*ticks, *writes, DEAD_LETTERS), own)


def _generation(module: ModuleType, file: Path) -> int:
    generation: Any = getattr(module, "GENERATION", FIRST)
    if not isinstance(generation, int) or not FIRST <= generation < 10_000:
        raise AgentRefused(file, f"GENERATION is {generation!r}, and must be a number from 1 to 9999")
    return generation


def _version(module: ModuleType, file: Path) -> str:
    """What a module says of itself, or else the beginning of the SHA-256 of its file."""
    given = str(getattr(module, "__version__", ""))
    return given or f"sha256:{sha256(file.read_bytes()).hexdigest()[:12]}"


def _check_pages(kind: Kind, folder: Path, file: Path) -> None:
    """Raise AgentRefused for a runbook that nobody could open when it is needed."""
    if not isinstance(kind.runbooks, RunbookPolicy):
        return  # that a policy is missing is told with all else that is
    for trouble in fields(kind.runbooks):
        page = getattr(kind.runbooks, trouble.name)
        if not (
            page in _PAGES or page.startswith("https://") or (folder / "runbooks" / f"{page}.md").is_file()
        ):
            raise AgentRefused(
                file,
                f"kind {kind.name}: runbooks.{trouble.name} is {page!r}, and there is no such page",
                f"write runbooks/{page}.md in that folder, or name an address (https://) or one of "
                + ", ".join(sorted(_PAGES)),
            )


def _register(module: ModuleType, file: Path) -> Register:
    register: Any = getattr(module, "register", None)
    if not callable(register):
        raise AgentRefused(file, "it has no register(app, tools, options)")
    return register  # type: ignore[no-any-return]


def _declared(module: ModuleType, name: str, kind: type[Any], file: Path) -> Iterator[Any]:
    for given in getattr(module, name, ()):
        if not isinstance(given, kind):
            raise AgentRefused(file, f"{name} holds {given!r}, which is no {kind.__name__}")
        yield given
