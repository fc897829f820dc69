"""Decides of each dead letter whether its record can be handled again, handed back or appended, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from connectors.kafka.deadletters import NOT_A_LETTER
from connectors.kafka.replays import BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Handover
from ops.errors import Misused
from schemas.record import headers_bytes
from schemas.topics import TAKES_AGAIN, TOPICS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from connectors.kafka.deadletters import DeadLetter
    from ops.deployed import Running
    from pipelines.blueprint import Blueprint

Outcome = Literal["goes in", "was replayed", "cannot"]

_APPENDED = {spec.name for spec in TAKES_AGAIN}
_SINGLE_WRITER = {spec.name for spec in TOPICS} - _APPENDED
_OUTSIDE: Final = (
    "its agent keeps its position outside of Kafka, and a topic with a single writer takes nothing again; "
    "`dlq show` has the bytes while letters are kept"
)
_ELSEWHERE: Final = (
    "set SLUICEGATE_PIPELINES to where its agent is, or `--to` a topic that it may be appended to"
)
_ALL_THE_SAME: Final = "--also-to-others appends it all the same"


class Reader(NamedTuple):
    """An agent that reads a topic."""

    role: str
    agent: str
    takes_back: bool
    """Whether a record can be handed back to it: not to one that keeps its position outside of Kafka."""


Readers = Mapping[str, Sequence[Reader]]
"""By topic, unprefixed."""


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
    role: str = ""
    """Whose agent alone has the record again, in its place; empty = it is appended."""
    generation: int = 0
    """Of the role."""

    @property
    def handover(self) -> Handover:
        """The letter and its way, for one that goes in."""
        return Handover(self.letter, self.topic, self.partition, self.role, self.generation)


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
        running: Mapping[str, Running] = MappingProxyType({}),
        also_to_others: bool = False,
    ) -> None:
        """Take the cluster's topics with their partitions, and what was replayed so far.

        ``readers``: who reads each topic, as far as is known. ``running``: what runs of each role.
        ``also_to_others`` lets a record in though another role than the letter's has it again.

        Raises:
            Misused: ``to`` is no topic that others may write to.
        """
        self._partitions = partitions
        self._done = {} if again else dict(done)
        self._again = again
        self._prefix = prefix
        self._readers = readers
        self._running = running
        self._also_to_others = also_to_others
        self._to = None if to is None else prefix + to.removeprefix(prefix)
        problem = None if self._to is None else self._problem_of(self._to)
        if problem is not None:
            raise Misused(f"--to {to}: {problem}", "name an input topic, or one of your own agents'")

    def judge(self, letter: DeadLetter) -> Verdict:
        """Say what is to be done with a letter."""
        topic, partition = self._to or letter.from_topic, letter.from_partition
        reader = None if self._to else self._takes_back(letter)
        why = self._unfit(letter, topic, handed_back=reader is not None)
        if why is not None:
            return Verdict(letter, "cannot", topic, partition, why)
        if self._to is not None:
            partition = -1 if letter.key is not None else partition % self._partitions[topic]
        way = topic, None if partition < 0 else partition
        if self._done.get(letter.id) == letter.time_us:
            return Verdict(letter, "was replayed", *way, "--again hands it in once more")
        if reader is not None:
            return self._back_to(letter, reader.role)
        others = self._others(letter, topic)
        if others and not self._also_to_others:
            return Verdict(letter, "cannot", *way, f"{_twice(topic, others)}; {_ALL_THE_SAME}", others)
        self._done[letter.id] = letter.time_us
        return Verdict(letter, "goes in", *way, others=others)

    def _back_to(self, letter: DeadLetter, role: str) -> Verdict:
        """Judge of a letter whose record is its agent's alone."""
        way = letter.from_topic, letter.from_partition
        runs = self._running.get(role)
        generation = 1 if runs is None else runs.generation
        if runs is not None and runs.built:
            why = f"{role} is rebuilt as {runs.built}: hand it back when that is live, or was given up"
            return Verdict(letter, "cannot", *way, why)
        if 0 < letter.generation < generation and not self._again:
            why = (
                f"generation {letter.generation} of {role} made it; {generation} runs, which has read the "
                "record itself if it was rebuilt from before it; --again hands it back if not"
            )
            return Verdict(letter, "cannot", *way, why)
        self._done[letter.id] = letter.time_us
        return Verdict(letter, "goes in", *way, role=role, generation=generation)

    def _read_by(self, topic: str) -> Sequence[Reader]:
        return self._readers.get(topic.removeprefix(self._prefix), ())

    def _takes_back(self, letter: DeadLetter) -> Reader | None:
        """Return the one agent that a letter's record can be handed back to.

        What producers write, and what is superseded by a newer one, is judged anew by who reads it: that is
        appended again.
        """
        if letter.from_topic.removeprefix(self._prefix) in _APPENDED:
            return None
        mine = [reader for reader in self._read_by(letter.from_topic) if reader.agent == letter.agent]
        return mine[0] if len(mine) == 1 and mine[0].takes_back else None

    def _others(self, letter: DeadLetter, topic: str) -> tuple[str, ...]:
        """Return the roles that have had the record, or may have: all, where the letter's is not known."""
        if topic != letter.from_topic:
            return ()
        readers = self._read_by(topic)
        mine = {reader.role for reader in readers if reader.agent == letter.agent}
        return tuple(sorted({reader.role for reader in readers if mine != {reader.role}}))

    def _unfit(self, letter: DeadLetter, topic: str, *, handed_back: bool) -> str | None:
        if letter.cause == NOT_A_LETTER:
            return "is no dead letter: somebody else wrote it"
        if letter.cut:
            return "it is not whole: read the record at its coordinates, and publish it"
        if not letter.value:
            return "its record had no value"
        if self._has_single_writer(topic) and not handed_back:
            mine = [reader.role for reader in self._read_by(topic) if reader.agent == letter.agent]
            if len(mine) == 1:
                return _OUTSIDE
            whose = f"roles {', '.join(mine)} each have" if mine else "no role that is known here has"
            return f"{whose} an agent {letter.agent!r} that reads {topic}; {_ELSEWHERE}"
        problem = None if topic in self._partitions else f"there is no topic {topic}"
        if problem is None and self._to is None and letter.from_partition >= self._partitions[topic]:
            problem = f"{topic} has no partition {letter.from_partition}"
        return problem

    def _problem_of(self, topic: str) -> str | None:
        if self._has_single_writer(topic):
            return f"{topic} has a single writer, its readers would have the record twice"
        return None if topic in self._partitions else f"there is no topic {topic}"

    def _has_single_writer(self, topic: str) -> bool:
        return topic.removeprefix(self._prefix) in _SINGLE_WRITER


def readers_of(roles: Iterable[Blueprint]) -> Readers:
    """Return who reads each topic."""
    found: dict[str, list[Reader]] = {}
    for role in roles:
        for agent in role.agents:
            reader = Reader(role.role, agent.name, not agent.keeps_position)
            found.setdefault(agent.reads.name, []).append(reader)
    return found


def _twice(topic: str, others: Iterable[str]) -> str:
    return f"{', '.join(others)} reads {topic}, too, and would have the record twice"


def ways_back(role: str, topics: Iterable[str], cause: str, readers: Readers) -> list[str]:
    """Say how what a lever puts aside comes back to a role; ``topics`` are those it may stand in, unprefixed.

    ``cause`` is that of the dead letters: ``skipped`` or ``quarantined``.
    """
    taken = {name for name in topics if name in _APPENDED or _takes_back(readers.get(name, ()), role)}
    alone = sorted({*topics} - taken)
    first = "once it is undone, " if cause == "quarantined" else ""
    said = []
    if taken:
        replay = f"`sluicegate dlq replay --all --cause {cause}`"
        said.append(f"way back of what stood in {', '.join(sorted(taken))}: {first}{replay}")
    if alone:
        said.append(f"no way back to {role} of what stood in {', '.join(alone)}: {_OUTSIDE}")
    return said


def _takes_back(readers: Iterable[Reader], role: str) -> bool:
    return any(reader.role == role and reader.takes_back for reader in readers)


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
