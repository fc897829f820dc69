"""`sluicegate pause` and `resume`: have a role leave partitions alone, and go on with them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cyclopts import App

    from ops.levers import Levers
    from schemas.controls import Target

Flag = Annotated[bool, Parameter(negative=())]
AsJson = Annotated[bool, Parameter(name="--json", negative=())]


def register(app: App) -> None:
    """Add the commands to the app."""
    app.command(pause_command, name="pause")
    app.command(resume_command, name="resume")


def pause_command(
    role: str, *partitions: int, reason: str = "", yes: Flag = False, as_json: AsJson = False
) -> int:
    """Have a role read nothing more, or nothing of some partitions, until it is resumed.

    Nothing is lost: what arrives waits in its topic, as long as that keeps it, and other partitions flow.
    Workers keep their partitions and their place in the group; a pause outlives their restart. Without
    `--yes` nothing is done. `lag` and a worker's `/readyz` show what is paused.

    Example: `sluicegate pause archive --reason "PostgreSQL is under repair" --yes`

    Parameters
    ----------
    role
        ingest, aggregate, archive, or one of yours.
    partitions
        Numbers, of each topic that the role reads; by default all.
    reason
        Kept with who did it; needed with --yes.
    yes
        Do it.
    as_json
        Print a JSON document.
    """
    from ops.errors import Misused

    if yes and not reason.strip():
        raise Misused("--yes needs a --reason", "say why: whoever is on call next reads it")
    with _levers() as levers:
        targets = _targets(levers, role, partitions)
        new = [target for target in targets if target not in levers.paused()]
        if yes and new:
            levers.pause(new, reason)
    return _tell("pause", targets, new, yes=yes, as_json=as_json)


def resume_command(
    role: str, *partitions: int, reason: str = "", yes: Flag = False, as_json: AsJson = False
) -> int:
    """Take pauses back: the role goes on where it stood.

    Without partitions every pause of the role is taken back. Without `--yes` nothing is done.

    Example: `sluicegate resume archive --yes`

    Parameters
    ----------
    role
        ingest, aggregate, archive, or one of yours.
    partitions
        Numbers that were paused one by one; by default all that is paused of the role.
    reason
        Kept with who did it.
    yes
        Do it.
    as_json
        Print a JSON document.
    """
    from ops.errors import Misused
    from schemas.controls import Target

    with _levers() as levers:
        targets = _targets(levers, role, partitions)
        paused = [target for target in levers.paused() if target.role == role]
        if partitions and Target(role, None) in paused:
            raise Misused(
                f"{role} is paused as a whole", f"`sluicegate resume {role}`, then pause what must not go on"
            )
        lifted = [target for target in paused if not partitions or target in targets]
        if yes and lifted:
            levers.resume(lifted, reason)
    return _tell("resume", lifted if lifted and not partitions else targets, lifted, yes=yes, as_json=as_json)


@contextmanager
def _levers() -> Iterator[Levers]:
    from ops.addresses import addresses, kafka_options
    from ops.levers import Levers
    from ops.settings import Settings

    settings = Settings()
    where = addresses(settings)
    levers = Levers(settings, kafka_options(settings, where.kafka), where.registry_url)
    try:
        yield levers
    finally:
        levers.close()


def _targets(levers: Levers, role: str, partitions: Sequence[int]) -> list[Target]:
    from ops.commands.worker import ROLES
    from ops.errors import Misused
    from ops.extension import extension_of
    from ops.settings import Settings
    from schemas.controls import Target

    roles = (*ROLES, *extension_of(Settings()).roles)
    if role not in roles:
        raise Misused(f"there is no role {role!r}", f"name one of {', '.join(roles)}")
    known = levers.partitions_of(role)
    for partition in partitions:
        if partition < 0 or (known and partition not in known):
            raise Misused(f"{role} has no partition {partition}", f"`sluicegate lag {role} --partitions`")
    return [Target(role, partition) for partition in sorted(set(partitions))] or [Target(role, None)]


def _tell(
    action: str, targets: Sequence[Target], changed: Sequence[Target], *, yes: bool, as_json: bool
) -> int:
    """Say of each target what was done or would be, and how it is taken back."""
    from ops import console
    from ops.levers import undo_of

    undo = [undo_of(action, target) for target in changed]
    if as_json:
        console.print_json(
            {
                "dry_run": not yes,
                "action": action,
                "changed" if yes else "would_change": [str(target) for target in changed],
                "unchanged": [str(target) for target in targets if target not in changed],
                "undo": list(undo),
            }
        )
        return 0
    for target in targets:
        where = f"{target.role}, " + ("all" if target.partition is None else f"partition {target.partition}")
        if target not in changed:
            console.out().print(f"{where}: {'paused' if action == 'pause' else 'not paused'} already")
        else:
            console.out().print(f"{where}: {f'{action}d' if yes else f'would be {action}d'}")
    for line in undo:
        console.out().print(f"undo: {line}", markup=False)
    if not yes and changed:
        console.note("dry run: --yes does it")
    return 0
