"""Writes a new agent: files that run and pass their test as they are, to be changed."""

from __future__ import annotations

import keyword
import sys
from importlib.machinery import PathFinder
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from ops.errors import Misused
from pipelines.extension import OUR_ROLES, ROLE_NAME
from schemas.kinds import BUILTIN_KINDS

if TYPE_CHECKING:
    from pathlib import Path

_OUR_PACKAGES = ("benchmarks", "connectors", "edge", "ops", "pipelines", "schemas", "state", "tests")
"""An agent's module of that name would hide one of ours, or be hidden by it."""
# Template -> where it goes, beneath the folder of the user's agents.
_FILES = {
    "agent.py.tmpl": "$name.py",
    "schema.avsc.tmpl": "schemas/$subject.avsc",
    "test.py.tmpl": "tests/test_$name.py",
    "runbook.md.tmpl": "runbooks/$name.md",
}


def new_agent(name: str, folder: Path) -> list[Path]:
    """Write the files of an agent, all or none; returns them.

    Raises:
        Misused: the name cannot be a role's, one of the files exists, or the folder cannot be written to.
    """
    ours = name in OUR_ROLES or name in BUILTIN_KINDS or name in _OUR_PACKAGES
    if ours or keyword.iskeyword(name) or not ROLE_NAME.fullmatch(name) or _is_taken(name):
        raise Misused(
            f"{name!r} is no name for an agent",
            "use a-z, 0-9 and _, beginning with a letter, and no name of sluicegate's own, or of a module of "
            "Python's or of a package that is installed",
        )
    class_name = "".join(part.capitalize() for part in name.split("_"))
    words = {
        "name": name,
        "class_name": class_name,
        "namespace": f"agents.{name}",
        "subject": f"agents.{name}.{class_name}",
    }
    made = {
        folder / Template(target).substitute(words): Template(_text(template)).substitute(words)
        for template, target in _FILES.items()
    }
    for path in made:
        if path.exists():
            raise Misused(f"{path} exists", "choose another name, or remove it first; nothing was written")
    written: list[Path] = []
    try:
        for path, text in made.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            written.append(path)
            path.write_text(text)
    except OSError as error:
        for one in written:
            one.unlink(missing_ok=True)
        raise Misused(
            f"{error.filename or path} cannot be made: {error.strerror}; nothing was written",
            "name a --folder that you may write to, and in which no file has the name of a folder",
        ) from None
    return written


def _is_taken(name: str) -> bool:
    """Whether Python or pytest has a module of that name: one would be taken for the other."""
    return name in sys.stdlib_module_names or name == "conftest" or PathFinder.find_spec(name) is not None


def _text(template: str) -> str:
    return (files("ops") / "templates" / "agent" / template).read_text()
