"""How versions of routes and prompts are shown: as tables, as they were written, and by what differs."""

from __future__ import annotations

from difflib import unified_diff
from typing import TYPE_CHECKING

import orjson
from rich.table import Table
from rich.text import Text

from ops import console
from ops.errors import BadFile
from ops.redaction import escaped
from schemas.published import time_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ops.llm_versions import Version


def text_of(file: Path) -> str:
    """Read a file that somebody named; raises BadFile."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(str(file), f"cannot be read: {error}", "name a file of JSON") from None


def row_of(version: Version) -> dict[str, object]:
    """Return who wrote a version, when and why."""
    return {
        "name": version.name,
        "version": version.number,
        "time": time_text(version.time_us),
        "by": version.by,
        "reason": version.reason,
    }


def table(rows: Sequence[Mapping[str, object]]) -> None:
    """Print rows of the same fields, at least one, as a table."""
    made = Table(box=None, pad_edge=False)
    for title in rows[0]:
        made.add_column(title.replace("_", " "), overflow="fold")
    for row in rows:
        made.add_row(*(Text(escaped(str(value).encode(), 2_000)) for value in row.values()))
    console.out().print(made)


def show(version: Version, *, as_json: bool) -> int:
    """Print a version as it was written."""
    if as_json:
        console.print_json(row_of(version) | {"config": json_of(version.text)})
    else:
        print_lines(version.text)
    return 0


def print_lines(text: str) -> None:
    """Print a JSON text, a value a line."""
    console.out().print("\n".join(lines_of(text)))


def tell(what: str, seen: int, before: str, after: str, *, yes: bool, as_json: bool) -> int:
    """Say what was written, or would be: the lines that differ from the version that it stands on."""
    names = (f"version {seen}", f"version {seen + 1}")
    lines = list(unified_diff(lines_of(before), lines_of(after), *names, lineterm=""))
    if as_json:
        console.print_json(
            {"dry_run": not yes, "what": what, "version": seen + 1, "on": seen, "diff": list[object](lines)}
        )
        return 0
    for line in lines:
        console.out().print(line)
    console.out().print(f"{what}: version {seen + 1} {'is' if yes else 'would be'} written")
    if not yes:
        console.note(f"dry run: --yes does it, --on {seen} holds it to what was shown")
    return 0


def json_of(text: str) -> object:
    """Return what a JSON text says, or the text if it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def lines_of(text: str) -> list[str]:
    """Return a JSON text a value a line, so that only what changed differs."""
    value = json_of(text) if text else ""
    if isinstance(value, str):
        return value.splitlines()
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode().splitlines()
