"""`sluicegate pause`, `resume`: have a role leave partitions alone, and go on. `levers`: what holds now."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cyclopts import App

    from connectors.kafka.lag import PartitionLag
    from ops.levers import Held, Levers, Move
    from schemas.controls import Target

Flag = Annotated[bool, Parameter(negative=())]
AsJson = Annotated[bool, Parameter(name="--json", negative=())]


def register(app: App) -> None:
    """Add the commands to the app."""
    app.command(pause_command, name="pause")
    app.command(resume_command, name="resume")
    app.command(levers_command, name="levers")


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
        ingest, aggregate, archive, account, or one of yours.
    partitions
        Numbers, of each topic that the role reads; by default all.
    reason
        Kept with who did it; needed with --yes.
    yes
        Do it.
    as_json
        Print a JSON document.
    """
    from ops.levers import Move
    from schemas.controls import PAUSE

    need_reason(reason, yes=yes)
    with opened() as levers:
        targets = _targets(levers, role, partitions)
        paused = levers.paused()
        moves = [Move(PAUSE, target) for target in targets]
        new = [move for move in moves if move.target not in paused]
        if yes and new:
            levers.move(new, reason)
    return tell(moves, new, "paused", yes=yes, as_json=as_json)


def resume_command(
    role: str, *partitions: int, reason: str = "", yes: Flag = False, as_json: AsJson = False
) -> int:
    """Take pauses back: the role goes on where it stood.

    A partition that stands still at an event that its agent cannot handle tries that event again. Without
    partitions every pause and standstill of the role is taken back. Without `--yes` nothing is done.

    Example: `sluicegate resume archive --yes`

    Parameters
    ----------
    role
        ingest, aggregate, archive, account, or one of yours.
    partitions
        Numbers that were paused one by one, or stand still; by default all of the role that do.
    reason
        Kept with who did it.
    yes
        Do it.
    as_json
        Print a JSON document.
    """
    from ops.errors import Misused
    from ops.levers import RESUME, Move
    from schemas.controls import Target

    with opened() as levers:
        targets = _targets(levers, role, partitions)
        held = [target for target in levers.paused() if target.role == role]
        if partitions and Target(role, None) in held:
            raise Misused(
                f"{role} is paused as a whole", f"`sluicegate resume {role}`, then pause what must not go on"
            )
        still = {part.partition for part in levers.partitions_of(role) if part.standstill}
        held += [Target(role, number) for number in sorted(still) if Target(role, number) not in held]
        lifted = [Move(RESUME, target) for target in held if not partitions or target in targets]
        if yes and lifted:
            levers.move(lifted, reason)
    moves = lifted if lifted and not partitions else [Move(RESUME, target) for target in targets]
    return tell(moves, lifted, "resumed", "not paused", yes=yes, as_json=as_json)


def levers_command(*, as_json: AsJson = False) -> int:
    """Show what holds now: pauses, skips, quarantines, and partitions that stand still at an event.

    A skip that took place is shown as `skipped`; it stands in case that the role's position is set back.

    Example: `sluicegate levers`

    Parameters
    ----------
    as_json
        Print a JSON document.
    """
    from rich.table import Table
    from rich.text import Text

    from ops import console

    with opened() as levers:
        stands = {role: levers.partitions_of(role) for role in roles()}
        rows = [_held(held, stands) for held in levers.held()]
        rows += [row for role, partitions in stands.items() for row in _standstills(role, partitions)]
    if as_json:
        console.print_json({"held": list[object](rows)})
        return 0
    if not rows:
        console.note("nothing is paused, skipped or in quarantine, and no partition stands still")
        return 0
    table = Table(box=None, pad_edge=False)
    for title in ("what", "on", "since", "by", "why", "ends by"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(row[name])) for name in ("what", "on", "since", "by", "why", "ends_by")))
    console.out().print(table)
    return 0


def _held(held: Held, stands: Mapping[str, Sequence[PartitionLag]]) -> dict[str, object]:
    from ops.levers import Move, words_of
    from schemas.controls import RecordTarget
    from schemas.published import time_text

    target = held.target
    # What took place has no end: it stands in case that the position is set back.
    is_over = False
    if isinstance(target, RecordTarget):
        at = [
            part.committed
            for part in stands.get(target.role, ())
            if (part.topic, part.partition) == (target.topic, target.partition)
        ]
        is_over = min(at, default=-1) > target.offset  # of a generation that is built, too
    return {
        "what": "skipped" if is_over else held.action,
        "on": words_of(target),
        "since": time_text(held.since_us),
        "by": held.by,
        "why": held.reason,
        "ends_by": "" if is_over or held.action == "unreadable" else Move(held.action, target).undo,
    }


def _standstills(role: str, partitions: Sequence[PartitionLag]) -> Iterator[dict[str, object]]:
    from ops.redaction import escaped
    from schemas.redaction import redacted

    for part in partitions:
        if part.standstill:
            yield {
                "what": "standstill",
                "on": f"{role} {part.topic} {part.partition} {part.committed}",
                "since": "",
                "by": "",
                "why": escaped(redacted(part.standstill).encode(), 2_000),
                "ends_by": f"sluicegate resume {role} {part.partition} --yes",
            }


# -- shared with the other levers ---------------------------------------------------------------------


@contextmanager
def opened() -> Iterator[Levers]:
    """Open the levers of the deployment that the settings name."""
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


def roles() -> tuple[str, ...]:
    """Return the names of all roles, the user's own among them."""
    from ops.commands.worker import ROLES
    from ops.extension import extension_at_hand
    from ops.settings import Settings

    return (*ROLES, *extension_at_hand(Settings()).roles)


def check_role(role: str) -> None:
    """Raise Misused for a role that there is not."""
    from ops.errors import Misused
    from ops.naming import instead_of

    if role not in roles():
        raise Misused(f"there is no role {role!r}", instead_of([role], roles()))


def topics_of(role: str) -> set[str]:
    """Return the topics, without prefix, that a role reads: those that its agents declare."""
    from connectors.kafka.options import KafkaOptions
    from ops.extension import extension_at_hand
    from ops.settings import Settings
    from pipelines.blueprint import blueprint
    from pipelines.errors import AgentRefused
    from schemas.access import ROLES

    if role in ROLES:
        return {spec.name for spec in ROLES[role].reads}
    extension = extension_at_hand(Settings())
    try:
        return {agent.reads.name for agent in blueprint(role, extension, KafkaOptions("")).agents}
    except AgentRefused:  # a register that was just broken; its module may say
        return {spec.name for spec in extension.access[role].reads}


def need_reason(reason: str, *, yes: bool) -> None:
    """Raise Misused if something would be done without a reason."""
    from ops.errors import Misused

    if yes and not reason.strip():
        raise Misused("--yes needs a --reason", "say why: whoever is on call next reads it")


def tell(
    moves: Sequence[Move],
    changed: Sequence[Move],
    done: str,
    already: str = "",
    *,
    yes: bool,
    as_json: bool,
) -> int:
    """Say of each target what was done or would be, and how it is taken back.

    ``done`` is the word for a target that was changed, ``already`` for one that need not be.
    """
    from ops import console

    if as_json:
        console.print_json(
            {
                "dry_run": not yes,
                "action": moves[0].action,
                "changed" if yes else "would_change": [str(move.target) for move in changed],
                "unchanged": [str(move.target) for move in moves if move not in changed],
                "undo": [move.undo for move in changed],
            }
        )
        return 0
    for move in moves:
        what = done if yes else f"would be {done}"
        if move not in changed:
            what = f"{already or done} already"
        console.out().print(f"{_about(move)}: {what}")
    for move in changed:
        console.out().print(f"undo: {move.undo}")
    if not yes and changed:
        console.note("dry run: --yes does it")
    return 0


def _about(move: Move) -> str:
    from ops.redaction import escaped
    from schemas.controls import KeyTarget, Target

    target = move.target
    if isinstance(target, Target):
        return f"{target.role}, " + ("all" if target.partition is None else f"partition {target.partition}")
    if isinstance(target, KeyTarget):
        return f"{target.role}, key {escaped(target.key, 200)}"
    return f"{target.role}, {target.topic}[{target.partition}]@{target.offset}"


def _targets(levers: Levers, role: str, partitions: Sequence[int]) -> list[Target]:
    from ops.errors import Misused
    from schemas.controls import Target

    check_role(role)
    known = {part.partition for part in levers.partitions_of(role)} if partitions else set()
    for partition in partitions:
        if partition < 0 or (known and partition not in known):
            raise Misused(f"{role} has no partition {partition}", f"`sluicegate lag {role} --partitions`")
    return [Target(role, partition) for partition in sorted(set(partitions))] or [Target(role, None)]
