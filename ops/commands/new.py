"""`sluicegate new`: writes the files of something that is to be changed."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App


def register(app: App) -> None:
    """Add the commands to the app."""
    new = App(name="new", help="Write the files of a new agent.")
    new.command(agent_command, name="agent")
    app.command(new)


def agent_command(name: str, *, folder: Path | None = None) -> int:
    """Write an agent with its schema, topics, kind, test and runbook; it runs as it is.

    Example: `sluicegate new agent stream_totals --folder agents`

    Parameters
    ----------
    name
        Name of the agent and of its role: a-z, 0-9 and _.
    folder
        Where your agents are; SLUICEGATE_PIPELINES if that is set, else `agents`.
    """
    from shlex import quote

    from ops import console
    from ops.invitation import command_name
    from ops.scaffold import new_agent
    from ops.settings import Settings

    where = folder or Settings().pipelines or Path("agents")
    for path in new_agent(name, where):
        console.out().print(f"wrote {path}")
    ours = command_name()
    for_both = "for worker and edge: they take its kind, too"
    console.note(f"next: export SLUICEGATE_PIPELINES={quote(str(where))}  # {for_both}")
    console.note(f"      {ours} worker --roles {name}")
    return 0
