"""`sluicegate accept-loss`: have a role go on behind what retention took, and keep what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops.commands.levers import AsJson, Flag, check_role, need_reason, opened

if TYPE_CHECKING:
    from cyclopts import App

# Its positions are PostgreSQL's (runbooks/checkpoint-failure.md, Records that retention took).
_ELSEWHERE = ("archive",)


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(accept_loss_command, name="accept-loss")


def accept_loss_command(role: str, *, reason: str = "", yes: Flag = False, as_json: AsJson = False) -> int:
    """Have a role that retention has passed go on behind the records that are gone.

    Such a role does not start: going on by itself would lose them in silence. This sets its position to where
    each log begins now, and keeps a record of each gap (`ops.audit.v1`), in one transaction. It cannot be
    undone: the records are gone. Without `--yes` nothing is done. The role's workers must be stopped.

    Example: `sluicegate accept-loss ingest --reason "down over the holidays, producers know" --yes`

    Parameters
    ----------
    role
        ingest, aggregate, account, or one of yours.
    reason
        Kept with who did it; needed with --yes.
    yes
        Do it.
    as_json
        Print a JSON document.
    """
    from ops import console
    from ops.errors import Misused

    check_role(role)
    need_reason(reason, yes=yes)
    if role in _ELSEWHERE:
        raise Misused(
            f"{role} keeps its position in PostgreSQL",
            "runbooks/checkpoint-failure.md, Records that retention took, has the statement",
        )
    with opened() as levers:
        losses = levers.losses_of(role)
        if yes and losses:
            levers.accept_losses(role, losses, reason)
    if as_json:
        rows = [
            {"topic": loss.topic, "partition": loss.partition, "first": loss.first, "last": loss.last}
            | {"offsets": loss.offsets}
            for loss in losses
        ]
        console.print_json({"dry_run": not yes, "role": role, "lost": list[object](rows)})
        return 0
    if not losses:
        console.note(f"{role} has lost nothing: its positions are in the logs")
        return 0
    what = "given up" if yes else "would be given up"
    for loss in losses:
        console.out().print(
            f"{role}, {loss.topic}[{loss.partition}]: {loss.offsets} records, offsets {loss.first} to "
            f"{loss.last}: {what}",
        )
    console.out().print("undo: none, the records are gone")
    if not yes:
        console.note("dry run: --yes does it")
    return 0
