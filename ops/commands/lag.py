"""`sluicegate lag`: how far the agents are behind."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cyclopts import App

    from connectors.kafka.options import KafkaOptions
    from ops.lag import GroupLag
    from ops.settings import Settings

Flag = Annotated[bool, Parameter(negative=())]


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(lag_command, name="lag")


def lag_command(
    group: str | None = None,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    partitions: Flag = False,
    watch: Flag = False,
    every_s: float = 1.0,
    wait_s: float | None = None,
) -> int:
    """Show how far the agents are behind, in records and in seconds, and whether that grows.

    Measured against the last stable offset: what an open transaction holds back counts as waiting for
    the transaction, not for the agent. The trend is the difference of two looks.

    With --wait-s a script waits until all of it is consumed; groups that never committed anything count
    for nothing, unless one is named. Exit code 1 says that one was still behind at the end.

    Example: `sluicegate lag ingest --watch`, and in a script `sluicegate lag --wait-s 180`

    Parameters
    ----------
    group
        A role (ingest, aggregate, archive, account, one of yours), or a group's full name; by default all.
        Of a role it is the generation that runs, whichever this code is.
    as_json
        Print JSON: one document, or with --watch a line for each look.
    partitions
        Show every partition, not only the worst.
    watch
        Look again and again until Ctrl-C.
    every_s
        Seconds between two looks.
    wait_s
        Look until nothing is behind, this many seconds at most; shows the last look.
    """
    from connectors.kafka.admin import group_lag
    from ops import console
    from ops.addresses import addresses, kafka_options
    from ops.lag import LagWatch
    from ops.naming import YOURS
    from ops.settings import Settings

    settings = Settings()
    kafka = kafka_options(settings, addresses(settings).kafka)
    known = _groups_that_run(kafka, settings, group)
    groups = list(known.values()) if group is None else [known.get(group, group)]
    lags = LagWatch(groups, lambda name: group_lag(kafka, name))
    lags.look()
    deadline = None if wait_s is None else time.monotonic() + wait_s
    while True:
        time.sleep(every_s)
        found = lags.look()
        behind = [one.group for one in found if one.records or (group is not None and not one.known)]
        if deadline is not None and behind and time.monotonic() < deadline:
            continue
        paused = _paused(kafka, groups, known)
        if as_json:
            told = [{**one.as_json(), "paused": paused[one.group]} for one in found]
            console.print_json({"groups": told})
        else:
            _show(found, every=partitions)
            for name, what in paused.items():
                if what:
                    console.warn(f"{name}: paused by an operator, {', '.join(what)}")
            _warn_of_standstills(found)
        if not watch or deadline is not None:
            break
    if group is not None and not found[0].known:
        console.fail(
            f"group {groups[0]} has committed nothing",
            f"start a worker, or see the name: `sluicegate lag`; {YOURS}",
        )
        return 1
    if deadline is not None and behind:
        console.fail(
            f"still behind after {wait_s:g} s: {', '.join(behind)}",
            "runbooks/lag-growth.md says where to look",
        )
        return 1
    return 0


def _groups_that_run(kafka: KafkaOptions, settings: Settings, asked: str | None) -> dict[str, str]:
    """Return each role's group, of the generation that runs; say which of those asked for differ.

    A command that only looks goes on with the code's where no record can be read. A role that is on record
    alone is among them if it is asked for: it may have been given up long ago.
    """
    from connectors.kafka.errors import NotAuthorized
    from ops import console
    from ops.deployed import deployed, running
    from ops.naming import YOURS
    from pipelines.generations import group_of
    from schemas.errors import RegistryUnavailable

    try:
        rows = deployed(kafka, settings)
    except (NotAuthorized, RegistryUnavailable) as error:
        rows = {}
        console.warn(f"groups are those of this code, as what runs cannot be read: {error}")
    found = running(kafka, settings, rows)
    for role, runs in found.items():
        if runs.generation != runs.code and asked in (None, role):
            console.note(
                f"{role}: generation {runs.generation} runs and is shown; this code is generation {runs.code}"
            )
    groups = {role: runs.group for role, runs in found.items()}
    others = sorted(rows.keys() - groups)
    if asked in others:
        groups[asked] = group_of(kafka.topic_prefix, asked, rows[asked]["generation"])
    elif asked is None and others:
        console.note(
            f"on record, and not shown: {', '.join(others)}. {YOURS}; `sluicegate lag {others[0]}` shows one"
        )
    return groups


def _paused(kafka: KafkaOptions, groups: Sequence[str], known: Mapping[str, str]) -> dict[str, list[str]]:
    """What is paused of each group: "all", or "partition 2"."""
    from ops.levers import paused_in

    found: dict[str, list[str]] = {group: [] for group in groups}
    for target in paused_in(kafka):
        group = known.get(target.role)
        if group in found:
            found[group].append("all" if target.partition is None else f"partition {target.partition}")
    return found


def _warn_of_standstills(found: Sequence[GroupLag]) -> None:
    from ops import console
    from ops.redaction import escaped
    from schemas.redaction import redacted

    for one in found:
        for part in one.partitions:
            if part.standstill:
                where = f"{part.topic}[{part.partition}]@{part.committed}"
                why = escaped(redacted(part.standstill).encode(), 200)
                console.warn(f"{one.group}: stands still at {where}, {why}")


def _show(found: Sequence[GroupLag], *, every: bool) -> None:
    from rich.table import Table

    from ops import console

    table = Table(box=None, pad_edge=False)
    for title in ("group", "records", "seconds", "trend", "in/s", "out/s", "worst partition"):
        table.add_column(
            title, justify="right" if title in ("records", "seconds", "in/s", "out/s") else "left"
        )
    for one in found:
        if not one.known:
            table.add_row(one.group, "-", "-", "nothing committed yet", "", "", "")
            continue
        worst = one.partitions[0]
        table.add_row(
            one.group,
            f"{one.records:,}",
            f"{one.seconds:.1f}",
            one.trend,
            f"{one.arriving_per_s:,.0f}",
            f"{one.consumed_per_s:,.0f}",
            f"{worst.topic}[{worst.partition}] {worst.records:,}" if worst.records else "none is behind",
        )
        for part in one.partitions if every else ():
            where = f"  {part.topic}[{part.partition}]"
            at = f"at {part.committed:,} of {part.last_stable:,}"
            table.add_row(where, f"{part.records:,}", f"{part.seconds:.1f}", "", "", "", at)
    console.out().print(table)
    for one in found:
        if one.unstable_records:
            console.note(f"{one.group}: {one.unstable_records:,} more offsets wait for open transactions")
