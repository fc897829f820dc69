"""`sluicegate skip` and `quarantine`: have records become dead letters instead of being handled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops.commands.levers import (
    AsJson,
    Flag,
    check_role,
    need_reason,
    opened,
    tell,
    topics_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cyclopts import App

    from ops.levers import Levers, Move
    from schemas.controls import RecordTarget


def register(app: App) -> None:
    """Add the commands to the app."""
    app.command(skip_command, name="skip")
    app.command(quarantine_command, name="quarantine")


def skip_command(
    role: str,
    topic: str,
    partition: int,
    offset: int,
    *,
    reason: str = "",
    undo: Flag = False,
    yes: Flag = False,
    as_json: AsJson = False,
) -> int:
    """Have a role pass one record over: it becomes a dead letter instead of being handled.

    `dlq show` has its bytes, `dlq replay ID` has it handled after all. Without `--yes` nothing is done, and
    the way back is told. A partition that stands still at it goes on. A record that the role has passed
    cannot be skipped.

    Example: `sluicegate skip ingest streams.input.v1 2 17 --reason "crashes the worker" --yes`

    Parameters
    ----------
    role
        ingest, aggregate, archive, account, or one of yours.
    topic
        One that the role reads, with or without your prefix.
    partition
        Number of the partition.
    offset
        Offset of the record.
    reason
        Kept with who did it; needed with --yes.
    undo
        Take a skip back, as long as the role has not come to it.
    yes
        Do it.
    as_json
        Print a JSON document.
    """
    from ops.errors import Misused
    from ops.levers import Move
    from schemas.controls import SKIP, RecordTarget

    check_role(role)
    if not undo:
        need_reason(reason, yes=yes)
    with opened() as levers:
        target = RecordTarget(role, levers.bare(topic), partition, offset)
        positions = _positions(levers, target)
        _check_not_passed(target, positions.get(target[1:3], -1), undo=undo)
        if not undo and levers.record_at(*target[1:]) is None:
            raise Misused(
                f"no record stands at {topic}[{partition}]@{offset}",
                "`sluicegate lag` has the ends; markers of transactions take offsets, too",
            )
        skips = [held.target for held in levers.held() if isinstance(held.target, RecordTarget)]
        move = Move(f"undo {SKIP}" if undo else SKIP, target)
        changed = [move] if (target in skips) == undo else []
        if yes and changed:
            mine = [skip for skip in skips if skip.role == role]
            levers.move([*([] if undo else _room(mine, positions)), *changed], reason)
    if changed and not undo and not as_json:
        _tell_ways_back(role, {target.topic}, "skipped")
    done, already = ("taken back", "not skipped") if undo else ("skipped", "")
    return tell([move], changed, done, already, yes=yes, as_json=as_json)


def quarantine_command(
    role: str,
    key: str = "",
    *,
    key_hex: str = "",
    reason: str = "",
    undo: Flag = False,
    yes: Flag = False,
    as_json: AsJson = False,
) -> int:
    """Have a role hand no record of a key to its agents: each becomes a dead letter, until this is undone.

    For one stream that does harm while all others must flow. Once it is undone,
    `sluicegate dlq replay --all --cause quarantined` hands the records back. Without `--yes` nothing is done,
    and the way back is told.

    Example: `sluicegate quarantine ingest acme/run-7 --reason "floods its partition" --yes`

    Parameters
    ----------
    role
        ingest, aggregate, archive, account, or one of yours.
    key
        Key of the records, in all topics that the role reads; that of a stream is tenant/stream_id.
    key_hex
        The key's bytes in hexadecimal, in place of the key: for one that is no text.
    reason
        Kept with who did it; needed with --yes.
    undo
        Handle records of the key again.
    yes
        Do it.
    as_json
        Print a JSON document.
    """
    from ops.errors import Misused
    from ops.levers import Move
    from schemas.controls import QUARANTINE, QUARANTINED_MAX, KeyTarget

    check_role(role)
    if not undo:
        need_reason(reason, yes=yes)
    if bool(key) == bool(key_hex):
        raise Misused(
            "a key is needed, or --key-hex, and not both" if key else "a key is needed",
            "that of a stream is tenant/stream_id; --key-hex takes bytes that are no text",
        )
    try:
        target = KeyTarget(role, key.encode() or bytes.fromhex(key_hex))
    except ValueError:
        raise Misused(f"--key-hex {key_hex!r} is not hexadecimal", "two of 0-9 a-f a byte") from None
    move = Move(f"undo {QUARANTINE}" if undo else QUARANTINE, target)
    with opened() as levers:
        keys = [
            held.target
            for held in levers.held()
            if isinstance(held.target, KeyTarget) and held.target.role == role
        ]
        changed = [move] if (target in keys) == undo else []
        if changed and not undo and len(keys) >= QUARANTINED_MAX:
            raise Misused(
                f"{role} has {len(keys)} keys in quarantine, and no more are held",
                "undo some (`sluicegate levers`), or pause what sends them",
            )
        if yes and changed:
            levers.move(changed, reason)
    if changed and not undo and not as_json:
        _tell_ways_back(role, topics_of(role), "quarantined")
    done, already = ("released", "not in quarantine") if undo else ("put in quarantine", "in quarantine")
    return tell([move], changed, done, already, yes=yes, as_json=as_json)


def _tell_ways_back(role: str, topics: set[str], cause: str) -> None:
    """Say it before it is done: what was put aside does not come back to every role."""
    from ops import console
    from ops.addresses import addresses, kafka_options
    from ops.commands.dlq_replay import readers_known
    from ops.handback import ways_back
    from ops.settings import Settings

    settings = Settings()
    kafka = kafka_options(settings, addresses(settings).kafka)
    readers = readers_known(kafka, users_may_be_unknown=True)
    if not any(reader.role == role for agents in readers.values() for reader in agents):
        return  # its code is broken just now, which was told
    for said in ways_back(role, topics, cause, readers):
        console.note(said)


def _positions(levers: Levers, target: RecordTarget) -> Mapping[tuple[str, int], int]:
    """Return the role's committed offsets by topic and partition, the lower of a generation that is built.

    Raises Misused if it reads no such topic.
    """
    from ops.errors import Misused

    reads = topics_of(target.role)
    if target.topic not in reads:
        raise Misused(f"{target.role} does not read {target.topic}", f"it reads {', '.join(sorted(reads))}")
    found: dict[tuple[str, int], int] = {}
    for part in levers.partitions_of(target.role):
        at = part.topic, part.partition
        found[at] = min(part.committed, found.get(at, part.committed))
    return found


def _check_not_passed(target: RecordTarget, committed: int, *, undo: bool) -> None:
    from ops.errors import Misused

    if target.offset >= committed:
        return
    where = f"{target.topic}[{target.partition}]@{target.offset}"
    cause = " --cause skipped" if undo else ""
    raise Misused(
        f"{target.role} has passed {where}, it stands at {committed}",
        f"`sluicegate dlq replay --all{cause}` says which dead letters can be handled again; "
        "what was handled stays",
    )


def _room(skips: Sequence[RecordTarget], positions: Mapping[tuple[str, int], int]) -> list[Move]:
    """Return what is taken back so that another skip has room: the oldest that its role has passed.

    As long as there is room they stand: a position that is set back meets them again.
    """
    from ops.errors import Misused
    from ops.levers import Move
    from schemas.controls import SKIP, SKIPS_MAX

    if len(skips) < SKIPS_MAX:
        return []
    for target in skips:
        if target.offset < positions.get(target[1:3], -1):
            return [Move(f"undo {SKIP}", target)]
    raise Misused(
        f"{skips[0].role} has {len(skips)} skips to come, and no more are held",
        "mend the agent or the input: so many records are no exception",
    )
