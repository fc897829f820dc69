"""`sluicegate reprocess`: builds the next generation of a role beside the one that runs, and switches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from cyclopts import App

Flag = Annotated[bool, Parameter(negative=())]


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(reprocess_command, name="reprocess")


def reprocess_command(
    role: str,
    *,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    switch: Flag = False,
    discard: Flag = False,
    yes: Flag = False,
    no_worker: Flag = False,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Rebuild a role's state and outputs beside those that run, then switch over; a dry run without `--yes`.

    The mended code says `GENERATION = 2` in its module. It reads the input again from a time on, as far as
    the generation that runs is, with state, group and topics of its own, and is held back: nobody sees it.
    `--switch` stops the other at a known place, and the new one goes on from there: no event is lost or
    doubled. Outputs that are compacted are given out as they were rebuilt; others go on from that place.

    Ctrl-C leaves the one that runs alone; the same command goes on where it stood.

    Example: `sluicegate reprocess totals --from 6h --yes`

    Parameters
    ----------
    role
        One of yours: a module in SLUICEGATE_PIPELINES.
    from_
        `earliest`, a time with its zone, or how long ago: 90m, 6h, 3d. Not needed to go on.
    switch
        Give it the place of the one that runs, as soon as it is as far.
    discard
        Give it up: the one that runs keeps its place.
    yes
        Do it.
    no_worker
        Have other workers with this code do the work: `sluicegate worker --roles ROLE`.
    as_json
        Print a JSON object a line.
    """
    from ops.errors import Misused
    from ops.reprocess.run import Wish, discarded, dry_run, reprocessed
    from ops.settings import Settings

    if discard and (switch or from_):
        raise Misused("--discard goes with neither --from nor --switch", "say one of them")
    wish = Wish(Settings(), role, from_, switch=switch, worker=not no_worker, as_json=as_json)
    if discard:
        return discarded(wish, yes=yes)
    return reprocessed(wish) if yes else dry_run(wish)
