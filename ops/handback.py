"""Decides of each dead letter whether its record can be handed in again, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from connectors.kafka.deadletters import NOT_A_LETTER
from connectors.kafka.replays import BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Handover
from ops.errors import Misused
from schemas.record import headers_bytes
from schemas.topics import TAKES_AGAIN, TOPICS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from connectors.kafka.deadletters import DeadLetter
    from pipelines.blueprint import Blueprint

    Readers = Mapping[str, Mapping[str, Collection[str]]]
    """By topic, unprefixed, and role: the role's agents that read it."""

Outcome = Literal["goes in", "was replayed", "cannot"]

_SINGLE_WRITER = {spec.name for spec in TOPICS if spec not in TAKES_AGAIN}
_NO_REPLAY = (
    "a topic with a single writer takes nothing again; `dlq show` has the bytes while letters are kept"
)

_WAYS_AROUND: Final = (
    "if its agent is one of yours, rebuild all: `sluicegate reprocess ROLE --from earliest` (state from "
    "before a later time is not rebuilt), or have its module read a topic of its own, too, and `--to` that"
)


_ALL_THE_SAME: Final = "--also-to-others hands it in all the same"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done with one letter."""

    letter: DeadLetter
    outcome: Outcome
    topic: str
    partition: int | None
    why: str = ""
    others: tuple[str, ...] = ()
    """Roles that have the record again, besides the one whose agent made the letter."""

    @property
    def handover(self) -> Handover:
        """The letter and its way, for one that goes in."""
        return Handover(self.letter, self.topic, self.partition)


class Judge:
    """Judges letters one after the other; one that it let in once does not go in again."""

    def __init__(
        self,
        partitions: Mapping[str, int],
        done: Mapping[str, int],
        *,
        prefix: str,
        to: str | None = None,
        again: bool = False,
        readers: Readers = MappingProxyType({}),
        also_to_others: bool = False,
    ) -> None:
        """Take the cluster's topics with their partitions, and what was replayed so far.

        ``readers``: who reads each topic, as far as is known. ``also_to_others`` lets a record in though
        another role than the letter's has it again.

        Raises:
            Misused: ``to`` is no topic that others may write to.
        """
        self._partitions = partitions
        self._done = {} if again else dict(done)
        self._prefix = prefix
        self._readers = readers
        self._also_to_others = also_to_others
        self._to = None if to is None else prefix + to.removeprefix(prefix)
        problem = None if self._to is None else self._problem_of(self._to)
        if problem is not None:
            raise Misused(f"--to {to}: {problem}", "name an input topic, or one of your own agents'")

    def judge(self, letter: DeadLetter) -> Verdict:
        """Say what is to be done with a letter."""
        topic, partition = self._to or letter.from_topic, letter.from_partition
        why = self._unfit(letter, topic)
        if why is not None:
            return Verdict(letter, "cannot", topic, partition, why)
        if self._to is not None:
            partition = -1 if letter.key is not None else partition % self._partitions[topic]
        way = topic, None if partition < 0 else partition
        if self._done.get(letter.id) == letter.time_us:
            return Verdict(letter, "was replayed", *way, "--again hands it in once more")
        others = self._others(letter, topic)
        if others and not self._also_to_others:
            return Verdict(letter, "cannot", *way, f"{_twice(topic, others)}; {_ALL_THE_SAME}", others)
        self._done[letter.id] = letter.time_us
        return Verdict(letter, "goes in", *way, others=others)

    def _others(self, letter: DeadLetter, topic: str) -> tuple[str, ...]:
        """Return the roles that have had the record, or may have: all, where the letter's is not known."""
        if topic != letter.from_topic:
            return ()
        roles = self._readers.get(topic.removeprefix(self._prefix), {})
        mine = [role for role, agents in roles.items() if letter.agent in agents]
        return tuple(sorted(role for role in roles if mine != [role]))

    def _unfit(self, letter: DeadLetter, topic: str) -> str | None:
        if letter.cause == NOT_A_LETTER:
            return "is no dead letter: somebody else wrote it"
        if letter.cut:
            return "it is not whole: read the record at its coordinates, and publish it"
        if not letter.value:
            return "its record had no value"
        problem = self._problem_of(topic)
        if problem is not None and self._has_single_writer(topic):
            return f"{problem}; {_WAYS_AROUND}"
        if problem is None and self._to is None and letter.from_partition >= self._partitions[topic]:
            problem = f"{topic} has no partition {letter.from_partition}"
        return problem

    def _problem_of(self, topic: str) -> str | None:
        if self._has_single_writer(topic):
            return f"{topic} has a single writer, its other readers would have the record twice"
        return None if topic in self._partitions else f"there is no topic {topic}"

    def _has_single_writer(self, topic: str) -> bool:
        return topic.removeprefix(self._prefix) in _SINGLE_WRITER


def readers_of(roles: Iterable[Blueprint]) -> Readers:
    """Return who reads each topic."""
    found: dict[str, dict[str, set[str]]] = {}
    for role in roles:
        for agent in role.agents:
            found.setdefault(agent.reads.name, {}).setdefault(role.role, set()).add(agent.name)
    return found


def _twice(topic: str, others: Iterable[str]) -> str:
    return f"{', '.join(others)} reads {topic}, too, and would have the record twice"


def ways_back(
    role: str,
    topics: Iterable[str],
    cause: str,
    *,
    is_ours: bool,
    shared: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> list[str]:
    """Say how what a lever puts aside comes back to a role; ``topics`` are those it may stand in, unprefixed.

    ``shared``: the other roles that read a topic. ``cause`` is that of the dead letters: ``skipped`` or
    ``quarantined``. A replay would give a topic's other readers the record twice where they trust in its
    single writer, and a rebuild passes over what is skipped.
    """
    alone = sorted(_SINGLE_WRITER.intersection(topics))
    others = sorted({*topics}.difference(alone))
    first = "once it is undone, " if cause == "quarantined" else ""
    said = []
    if others:
        replay = f"`sluicegate dlq replay --all --cause {cause}`"
        said.append(f"way back of what stood in {', '.join(others)}: {first}{replay}")
        said += [f"{_twice(name, shared[name])}; {_ALL_THE_SAME}" for name in others if shared.get(name)]
    if alone and not is_ours and cause == "quarantined":
        rebuild = f"`sluicegate reprocess {role} --from earliest` rebuilds the role with it"
        said.append(f"way back of what stood in {', '.join(alone)}: {first}{rebuild}; {_NO_REPLAY}")
    elif alone:
        said.append(f"no way back to {role} of what stood in {', '.join(alone)}: {_NO_REPLAY}")
    return said


def in_batches(verdicts: Iterable[Verdict]) -> Iterator[list[Verdict]]:
    """Give verdicts in their order, cut so that those that go in fit into one transaction."""
    batch: list[Verdict] = []
    size_bytes = 0
    for verdict in verdicts:
        letter = verdict.letter
        size = len(letter.value) + len(letter.key or b"") + headers_bytes(letter.headers)
        if batch and (len(batch) >= BATCH_RECORDS_MAX or size_bytes + size > BATCH_BYTES_MAX):
            yield batch
            batch, size_bytes = [], 0
        batch.append(verdict)
        size_bytes += size
    if batch:
        yield batch
