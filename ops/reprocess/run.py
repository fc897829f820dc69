"""What `sluicegate reprocess` does for whoever runs it: says what would be, shows how it goes, ends well."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from connectors.kafka.members import groups_of
from connectors.kafka.roster import Roster
from connectors.registry import Registry
from ops import console
from ops.addresses import addresses, kafka_options
from ops.children import Children, sluicegate
from ops.errors import OpsError
from ops.extension import extension_of
from ops.reprocess.build import attempt_in, begin, discard, left_over, starts_of, without_from
from ops.reprocess.plan import from_ms_of, is_ago, plan_of
from ops.reprocess.progress import Watch, positions
from ops.reprocess.show import Show
from ops.reprocess.switch import switch
from ops.signals import on_stop_signals
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connectors.kafka.roster import Row
    from ops.children import Child
    from ops.reprocess.plan import Plan
    from ops.settings import Settings

_LOOK_S: Final = 1.0
_STILL_S: Final = 8.0  # more than a session, less than patience
_INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for."""

    settings: Settings
    role: str
    since: str | None
    switch: bool
    worker: bool
    as_json: bool


@contextmanager
def _opened(wish: Wish) -> Iterator[tuple[Plan, Roster, Row | None]]:
    where = addresses(wish.settings)
    kafka = kafka_options(wish.settings, where.kafka)
    extension = extension_of(wish.settings)
    registry = Registry(where.registry_url)
    roster = Roster(kafka, WireCodec(registry, schemas=extension.schemas))
    try:
        row = roster.read().get(wish.role)
        yield plan_of(wish.role, extension, kafka, row), roster, row
    finally:
        roster.close()
        registry.close()


def dry_run(wish: Wish) -> int:
    """Say what would be done; nothing is changed."""
    with _opened(wish) as (plan, _roster, row):
        built = row is not None and row["candidate"] == plan.generation
        if row is not None and built:
            told = _told(plan, row)
        elif wish.since is None:
            raise without_from(plan)
        else:
            told = _would(plan, from_ms_of(wish.since))
    told |= {"dry_run": True}
    if wish.as_json:
        console.print_json(told)
        return 0
    more = "; --from earliest rebuilds it, of what is still there" if told["from_ms"] != -1 else ""
    out = console.out()
    out.print(f"{plan.role}: generation {plan.live} runs, this code is generation {plan.generation}")
    if built:
        out.print(f"built so far: {told['left']:,} offsets are left, {told['members']} workers build it")
    else:
        out.print(
            f"reads again: {told['offsets']:,} offsets of {', '.join(spec.name for spec in plan.inputs)}"
        )
    if told["loss"]:
        console.warn(f"{told['loss']}{more}")
    for spec in plan.sides(""):
        given = spec in plan.superseding("")
        what = "its keys are given out as they were rebuilt" if given else "what is out stays as it is"
        out.print(f"holds back:  {spec.name}; at the switch {what}")
    step = "goes on building" if built else "builds it beside the one that runs"
    then = "then gives it the other's place" if wish.switch else "--switch gives it the other's place"
    console.note(f"dry run: --yes {step}; {then}")
    return 0


def discarded(wish: Wish, *, yes: bool) -> int:
    """Give up what is built, or say that it would be."""
    with _opened(wish) as (plan, roster, row):
        if not yes:
            parts = left_over(plan, attempt_in(plan, row))
            topics = [spec.named(plan.kafka.topic_prefix) for spec in parts]
        else:
            topics = discard(plan, roster)
    if wish.as_json:
        console.print_json({"dry_run": not yes, "generation": plan.generation, "topics": list(topics)})
        return 0
    verb = "is given up" if yes else "would be given up"
    console.out().print(
        f"{plan.role}: generation {plan.generation} {verb}, generation {plan.live} keeps its place"
    )
    for topic in topics:
        console.out().print(f"left over, nobody reads it: {topic}")
    if not yes:
        console.note("dry run: --yes does it")
    return 0


def reprocessed(wish: Wish) -> int:
    """Build until it is as far, and switch if that was asked for; 0, or 130 after Ctrl-C."""
    with _opened(wish) as (plan, roster, row):
        goes_on = row is not None and bool(row["candidate"])
        since = None if wish.since is None or (goes_on and is_ago(wish.since)) else from_ms_of(wish.since)
        return asyncio.run(_follow(wish, plan, roster, begin(plan, roster, since)))


async def _follow(wish: Wish, plan: Plan, roster: Roster, row: Row) -> int:
    stopping = asyncio.Event()
    watch = Watch(plan)
    async with Children(stop_within_s=25.0) as children:
        with (
            Show(plan, as_json=wish.as_json) as show,
            on_stop_signals(lambda _: stopping.set(), lambda _: children.kill_all()),
        ):
            for spec, side in plan.sides(row["attempt"]).items():
                show.tell(f"what it would say to {spec.name} is in {side.named(plan.kafka.topic_prefix)}")
            child = None
            while not stopping.is_set():
                look = await asyncio.to_thread(watch.look)
                if child is None and wish.worker and await _nobody_builds(plan, watch):
                    child = await _worker(wish, plan, children)
                    show.tell(f"builds in process {child.pid}, log {child.log}")
                _see_that_it_runs(child)
                show.look(look)
                if look.level and wish.switch:
                    if loss := plan.loss(row["from_ms"], cut=row["cut"]):
                        show.tell(f"generation {plan.generation} takes its place with a gap: {loss}")
                    await _switched(plan, roster, show, stopping)
                    break
                if look.level:
                    show.tell(
                        f"built; `sluicegate reprocess {plan.role} --switch --yes` gives it the place of "
                        f"generation {plan.live}"
                    )
                    return 0
                try:
                    await asyncio.wait_for(stopping.wait(), _LOOK_S)
                except TimeoutError:
                    continue
            if stopping.is_set():
                show.tell(
                    f"stopped; the same command goes on. Generation {plan.live} is as it was, unless it was "
                    "being switched"
                )
                return _INTERRUPTED
            if child is not None:
                show.tell(f"now start it where it belongs: sluicegate worker --roles {plan.role}")
    return 0


async def _nobody_builds(plan: Plan, watch: Watch) -> bool:
    """Say whether it takes a worker of ours: one that ended stays a member until its session times out."""
    if watch.still_s > _STILL_S:
        return True
    group = (await asyncio.to_thread(groups_of, plan.kafka, [plan.group]))[plan.group]
    return not group.members


async def _worker(wish: Wish, plan: Plan, children: Children) -> Child:
    log = wish.settings.data_dir / "logs" / f"reprocess-{plan.role}.log"
    words = sluicegate("worker", "--role-process", plan.role, "--web-port", "0")
    return await children.start(plan.role, words, log=log, append=True)


def _see_that_it_runs(child: Child | None) -> None:
    if child is not None and child.code is not None:
        raise OpsError(
            f"the worker that builds ended with exit code {child.code}\n{child.log_tail(8)}",
            f"its log is {child.log}; mend what it says and run the same command again",
        )


async def _switched(plan: Plan, roster: Roster, show: Show, stopping: asyncio.Event) -> None:
    """Switch in a thread; a signal is heard, and what was begun is left to be gone on with."""
    loop = asyncio.get_running_loop()

    def tell(text: str) -> None:
        loop.call_soon_threadsafe(show.tell, text)

    for topic in await asyncio.to_thread(switch, plan, roster, tell, stopping.is_set):
        show.tell(f"left over, nobody reads it: {topic}")


def _would(plan: Plan, from_ms: int) -> dict[str, object]:
    starts, cut = starts_of(plan, from_ms)
    _, ends = positions(plan)
    return {
        "role": plan.role,
        "live": plan.live,
        "generation": plan.generation,
        "from_ms": from_ms,
        "offsets": sum(max(end - starts.get(at, end), 0) for at, end in ends.items()),
        "cut": cut,
        "loss": plan.loss(from_ms, cut=cut),
        "starts": [
            {"topic": topic, "partition": partition, "offset": offset}
            for (topic, partition), offset in sorted(starts.items())
        ],
        "given_out": [spec.name for spec in plan.superseding("")],
    }


def _told(plan: Plan, row: Row) -> dict[str, object]:
    mine, ends = positions(plan)
    group = groups_of(plan.kafka, [plan.group])[plan.group]
    return {
        "role": plan.role,
        "live": plan.live,
        "generation": plan.generation,
        "from_ms": row["from_ms"],
        "cut": row["cut"],
        "loss": plan.loss(row["from_ms"], cut=row["cut"]),
        "left": sum(max(end - mine.get(at, 0), 0) for at, end in ends.items()),
        "members": len(group.members),
        "given_out": [spec.name for spec in plan.superseding("")],
    }
