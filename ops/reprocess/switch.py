"""The switch from the generation that runs to the one that was built, each step safe to be done again.

1. The record says that it is switched. Workers of the one that runs stop; none opens a partition again.
2. Its group has no member. Where it stands now, X, it stands for good.
3. The new one has handled all before X, and counted the silence that the other has counted at X; it goes no
   further while it is held back. What its agents write for each other is handled as well.
4. Of outputs in which the latest of a key counts, what was rebuilt is given out: each batch in one
   transaction with how far it came.
5. The record names the new generation. Its workers start again and go on at X, in the open.

So what clients see is the old one's up to X and the new one's from X on: nothing is missing or twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from connectors.kafka.committed import CommittedReader
from connectors.kafka.lag import committed_offsets, committed_positions
from connectors.kafka.members import groups_of
from connectors.kafka.positions import Committed, PositionReader
from connectors.kafka.rewrite import Progress, Rewriter
from ops.errors import Misused, OpsError
from ops.person import who
from ops.reprocess.progress import nothing_between, positions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connectors.kafka.rewrite import Pair
    from connectors.kafka.roster import Roster, Row
    from ops.reprocess.plan import Plan
    from schemas.topics import TopicSpec

Tell = Callable[[str], None]
Leave = Callable[[], bool]
_ASK_S: Final = 0.5
_STOP_S: Final = 120.0  # a worker ends within 25 s, its session at the broker 6 or 45 s after that
_CATCH_UP_S: Final = 600.0
_BATCH: Final = 1_000


def switch(plan: Plan, roster: Roster, tell: Tell, leave: Leave = lambda: False) -> list[str]:
    """Do it, or go on with it; blocks. What it raises leaves it to be gone on with, or given up.

    ``leave`` is asked while it waits: if it says so nothing more is begun. Returns the topics that nobody
    needs any more.

    Raises:
        Misused: the generation is not built.
        OpsError: a worker does not stop, or nobody builds.
        KafkaUnavailable, NotAuthorized: run it again.
    """
    row = _begin(plan, roster)
    attempt = row["attempt"]
    new = {changelog.name for changelog in plan.changelogs(attempt)}
    tell(f"generation {plan.live} stops")
    _until_stopped(plan, tell, leave)
    ends = _stands(plan)
    tell(f"generation {plan.live} stands at {_said(ends)}")
    _until_level(plan, ends, tell, leave)
    for spec, side in plan.superseding(attempt).items():
        count = give_out(plan, spec, side, attempt)
        tell(f"{count:,} keys of {spec.name} are given out as they were rebuilt")
    _end(plan, roster)
    tell(f"generation {plan.generation} is live")
    old = [plan.kafka.topic_prefix + one["topic"] for one in row["stores"] if one["changelog"] not in new]
    return [*(side.named(plan.kafka.topic_prefix) for side in plan.sides(attempt).values()), *old]


def _begin(plan: Plan, roster: Roster) -> Row:
    def decide(row: Row | None) -> Row:
        if row is None or row["candidate"] != plan.generation:
            raise Misused(
                f"generation {plan.generation} of {plan.role} is not built",
                f"`sluicegate reprocess {plan.role} --from TIME --yes` builds it",
            )
        return {**row, "switching": True, "by": who(), "reason": f"switched to generation {plan.generation}"}

    row = roster.change(plan.role, decide)
    assert row is not None
    return row


def _until_stopped(plan: Plan, tell: Tell, leave: Leave) -> None:
    deadline = time.monotonic() + _STOP_S
    told = 0.0
    while not (group := groups_of(plan.kafka, [plan.live_group])[plan.live_group]).is_empty:
        names = ", ".join(member.name for member in group.members) or group.state
        if time.monotonic() > deadline:
            raise OpsError(
                f"workers of generation {plan.live} do not stop: {names}",
                "stop them, then switch again; or stay with them: "
                f"`sluicegate reprocess {plan.role} --discard --yes`",
            )
        if time.monotonic() - told > 5.0:
            told = time.monotonic()
            tell(f"waiting for {names}")
        _wait(plan, leave)


def _wait(plan: Plan, leave: Leave) -> None:
    if leave():
        raise OpsError(
            f"the switch of {plan.role} was left in its middle, generation {plan.live} has stopped",
            f"`sluicegate reprocess {plan.role} --switch --yes` goes on; to stay with the one that stopped, "
            f"`sluicegate reprocess {plan.role} --discard --yes`, then start its workers",
        )
    time.sleep(_ASK_S)


def _stands(plan: Plan) -> dict[tuple[str, int], Committed]:
    """Return X: stable, so that no transaction of a member that died can move it any more."""
    reader = PositionReader(plan.kafka, plan.live_group)
    try:
        ends = {}
        for topic, partition in positions(plan)[0]:
            committed = reader.committed(topic, partition)
            if committed is not None:
                ends[topic, partition] = committed
    finally:
        reader.close()
    return ends


def _until_level(plan: Plan, ends: dict[tuple[str, int], Committed], tell: Tell, leave: Leave) -> None:
    """Step 3: first the inputs, then what is between the role's own agents, of which nothing new can come."""
    deadline = told = time.monotonic()
    deadline += _CATCH_UP_S
    waiting = set(ends)
    while waiting := {at for at in waiting if not _is_level(plan, at, ends[at])} or _undrained(plan):
        now = time.monotonic()
        if now > deadline:
            raise OpsError(
                f"generation {plan.generation} does not come to the end of {_names(waiting)}",
                f"does its worker run? `sluicegate worker --roles {plan.role}`; then switch again",
            )
        if now - told > 5.0:
            told = now
            tell(f"waiting for {_names(waiting)} to be level")
        _wait(plan, leave)
        waiting &= ends.keys()


def _is_level(plan: Plan, at: tuple[str, int], end: Committed) -> bool:
    mine = committed_positions(plan.kafka, plan.group).get(at, Committed(0, None))
    if mine.offset == end.offset and _counts_silence(plan, at[0]):
        return mine.silent_us >= end.silent_us
    return mine.offset >= end.offset or nothing_between(plan, *at, mine.offset, end.offset)


def _counts_silence(plan: Plan, topic: str) -> bool:
    reads = (agent.reads.named(plan.kafka.topic_prefix) for agent in plan.agents if agent.idle_ms)
    return topic in reads


def _undrained(plan: Plan) -> set[tuple[str, int]]:
    """Return the partitions between the role's own agents that have something in them."""
    mine = committed_offsets(plan.kafka, plan.group) if plan.inner else {}
    found = set()
    for spec in plan.inner:
        topic = spec.named(plan.kafka.topic_prefix)
        with closing(CommittedReader(plan.kafka, topic)) as reader:
            bounds = {partition: reader.bounds(partition) for partition in reader.partitions()}
        for partition, (low, end) in bounds.items():
            if not nothing_between(plan, topic, partition, mine.get((topic, partition), low), end):
                found.add((topic, partition))
    return found


def _names(partitions: set[tuple[str, int]]) -> str:
    return ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(partitions))


def give_out(plan: Plan, spec: TopicSpec, side: TopicSpec, attempt: str) -> int:
    """Append to an output what was rebuilt of it, the latest of each key; returns how many keys.

    The keys of a partition are told apart by 16 bytes in memory: a hundred megabytes for a million.
    """
    prefix = plan.kafka.topic_prefix
    rewriter = Rewriter(plan.kafka, spec.named(prefix), f"{plan.group}.give-out-{attempt}")
    count = 0
    with closing(rewriter), closing(CommittedReader(plan.kafka, side.named(prefix))) as reader:
        rewriter.open()
        for partition in reader.partitions():
            progress = rewriter.progress(partition)
            if progress.whole:
                continue
            low, high = reader.bounds(partition)
            last: dict[bytes, int] = {}
            for message in reader.read({partition: low}, {partition: high}) if low < high else ():
                last[_digest(message.key())] = message.offset() or 0
            count += len(last)
            offset = progress.entries
            for offset, pairs in _batches(reader, partition, max(low, progress.entries), high, last):
                rewriter.write(partition, pairs, Progress(offset, whole=False))
            rewriter.write(partition, [], Progress(max(offset, high), whole=True))
    return count


def _batches(
    reader: CommittedReader, partition: int, start: int, end: int, last: dict[bytes, int]
) -> Iterator[tuple[int, list[Pair]]]:
    pairs: list[Pair] = []
    if start >= end:
        return
    for message in reader.read({partition: start}, {partition: end}):
        offset = message.offset() or 0
        if last[_digest(message.key())] == offset:
            pairs.append((message.key() or b"", message.value()))
        if len(pairs) >= _BATCH:
            yield offset + 1, pairs
            pairs = []
    if pairs:
        yield end, pairs


def _digest(key: bytes | None) -> bytes:
    return blake2b(key or b"", digest_size=16).digest()


def _end(plan: Plan, roster: Roster) -> None:
    def decide(row: Row | None) -> Row:
        assert row is not None
        if row["generation"] == plan.generation:
            return row  # somebody else was quicker
        if row["candidate"] != plan.generation or not row["switching"]:
            raise Misused(
                f"generation {plan.generation} of {plan.role} was given up meanwhile",
                "begin anew if it is wanted",
            )
        mark = f".g{plan.generation}."
        stores = [store for store in row["stores"] if mark in store["changelog"]]
        return {
            **row, "generation": plan.generation, "candidate": 0, "attempt": "", "from_ms": -1,
            "cut": False, "switching": False, "stores": stores, "by": who(),
            "reason": f"generation {plan.generation} is live",
        }  # fmt: skip

    roster.change(plan.role, decide)


def _said(ends: dict[tuple[str, int], Committed]) -> str:
    return ", ".join(
        f"{topic}[{partition}] {end.offset:,}" for (topic, partition), end in sorted(ends.items())
    )
