"""Moves the levers that the roles' workers obey: a control and its audit record, in one transaction."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from secrets import token_hex
from typing import TYPE_CHECKING, Final, NamedTuple

from connectors.kafka.admin import ensure_topics, group_lag
from connectors.kafka.committed import CommittedReader
from connectors.kafka.losses import accept, losses_of
from connectors.kafka.members import groups_of
from connectors.kafka.peek import record_at
from connectors.kafka.slot import ProducerSlot
from connectors.registry import Registry
from ops.deployed import deployed, running
from ops.errors import Misused
from ops.person import who
from schemas.controls import PAUSE, QUARANTINE, SKIP, AnyTarget, KeyTarget, Target, target_of
from schemas.errors import WireError
from schemas.topics import AUDIT, CONTROLS
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from connectors.kafka.lag import PartitionLag
    from connectors.kafka.losses import Loss
    from connectors.kafka.options import KafkaOptions
    from ops.deployed import Running
    from ops.settings import Settings
    from schemas.record import Record

_TIMEOUT_MS: Final = 10_000
RESUME: Final = "resume"
ACCEPT_LOSS: Final = "accept-loss"
_TAKES_BACK: Final = {RESUME: PAUSE, f"undo {SKIP}": SKIP, f"undo {QUARANTINE}": QUARANTINE}


class Move(NamedTuple):
    """A lever and what it is about; ``action`` is ``pause``, ``skip``, ``quarantine``, or takes one back."""

    action: str
    target: AnyTarget

    @property
    def undo(self) -> str:
        """The command that takes this back."""
        if self.action == PAUSE:
            return f"sluicegate resume {words_of(self.target)} --yes"
        if self.action == RESUME:
            reason = shlex.quote("resumed too early")
            return f"sluicegate pause {words_of(self.target)} --reason {reason} --yes"
        if self.action in (SKIP, QUARANTINE):
            return f"sluicegate {self.action} {words_of(self.target)} --undo --yes"
        again = shlex.quote("taken back too early")
        return f"sluicegate {_TAKES_BACK[self.action]} {words_of(self.target)} --reason {again} --yes"


@dataclass(frozen=True, slots=True)
class Held:
    """A control that holds now."""

    target: AnyTarget
    action: str
    by: str
    reason: str
    since_us: int
    """By the broker's clock."""


def words_of(target: AnyTarget) -> str:
    """Return a target as a command line has it."""
    if isinstance(target, Target):
        return target.role if target.partition is None else f"{target.role} {target.partition}"
    if isinstance(target, KeyTarget):
        return f"{target.role} {_word_of(target.key)}"
    return f"{target.role} {target.topic} {target.partition} {target.offset}"


def _word_of(key: bytes) -> str:
    """Return a key as a command line has it: as text, where a command line gives the same bytes back."""
    text = key.decode("utf-8", "replace")
    if text.encode() == key and text.isprintable() and not text.startswith("-"):
        return shlex.quote(text)
    return f"--key-hex {key.hex()}"


def paused_in(kafka: KafkaOptions) -> list[Target]:
    """Return what is paused now, of all roles; raises KafkaUnavailable."""
    found = {target: value for target, value, _ in _controls(kafka) if isinstance(target, Target)}
    return sorted((target for target, value in found.items() if value is not None), key=str)


def _controls(kafka: KafkaOptions) -> Iterator[tuple[AnyTarget, bytes | None, int]]:
    """Give each control that was told, oldest first, with its value and the broker's time, µs."""
    reader = CommittedReader(kafka, CONTROLS.named(kafka.topic_prefix))
    try:
        for message in reader.present():
            target = target_of(message.key())
            if target is not None:
                yield target, message.value(), message.timestamp()[1] * 1_000
    finally:
        reader.close()


class Levers:
    """The levers of one deployment; to be closed."""

    def __init__(self, settings: Settings, kafka: KafkaOptions, registry_url: str) -> None:
        self._settings = settings
        self._kafka = kafka
        self._registry = Registry(registry_url)

    def partitions_of(self, role: str) -> list[PartitionLag]:
        """Return where a role stands on each partition that it has committed; none = it never ran.

        Of the generation that runs and of one that is built beside it: both obey the levers, and either may
        stand still. Topics have no prefix.
        """
        runs = self._running[role]
        found = [lag for group in (runs.group, runs.built) if group for lag in group_lag(self._kafka, group)]
        return [partition._replace(topic=self.bare(partition.topic)) for partition in found]

    def bare(self, topic: str) -> str:
        """Return a topic's name without this deployment's prefix."""
        return topic.removeprefix(self._kafka.topic_prefix)

    def paused(self) -> list[Target]:
        """Return what is paused now, of all roles."""
        return paused_in(self._kafka)

    def held(self) -> list[Held]:
        """Return all controls that hold now, oldest first; one that cannot be read has no words."""
        codec = WireCodec(self._registry)
        found: dict[AnyTarget, Held] = {}
        for target, value, since_us in _controls(self._kafka):
            found.pop(target, None)
            if value is None:
                continue
            try:
                control = codec.decode(value, CONTROLS.subject)
            except WireError as error:
                control = {"action": "unreadable", "by": "", "reason": str(error)}
            found[target] = Held(target, control["action"], control["by"], control["reason"], since_us)
        return list(found.values())

    def record_at(self, topic: str, partition: int, offset: int) -> Record | None:
        """Return the committed record at an offset (``topic`` without prefix), or None if none stands there.

        Raises:
            KafkaUnavailable: no answer.
        """
        return record_at(self._kafka, self._kafka.topic_prefix + topic, partition, offset)

    def move(self, moves: Sequence[Move], reason: str) -> None:
        """Move levers, all of them or none.

        Raises:
            AppendFailed: Kafka did not take it, or nobody knows; it may be done again.
        """
        if self._settings.registry.register_schemas:
            self._registry.register_all()
        if self._settings.kafka.create_topics:
            ensure_topics(self._kafka, [CONTROLS, AUDIT])
        codec, prefix = WireCodec(self._registry), self._kafka.topic_prefix
        records: list[tuple[str, bytes, bytes | None, int | None]] = []
        for move in moves:
            control, audit = _records(move, who(), reason)
            key = str(move.target).encode()
            value = None if control is None else codec.encode(CONTROLS.subject, control)
            records.append((CONTROLS.named(prefix), key, value, 0))
            records.append((AUDIT.named(prefix), key, codec.encode(AUDIT.subject, audit), 0))
        slot = ProducerSlot(self._kafka, f"{prefix}sluicegate.lever.{token_hex(6)}", _TIMEOUT_MS)
        try:
            slot.append(records)
        finally:
            slot.close()

    def losses_of(self, role: str) -> list[Loss]:
        """Return what retention took of a role before it was handled; topics have no prefix."""
        found = losses_of(self._kafka, self._running[role].group)
        return [loss._replace(topic=self.bare(loss.topic)) for loss in found]

    def accept_losses(self, role: str, losses: Sequence[Loss], reason: str) -> None:
        """Have a role stand behind what it lost; a record of each gap is kept, in the same transaction.

        Raises:
            Misused: the role has workers: they would not hear of it.
            AppendFailed: Kafka did not take it, or nobody knows; it may be done again.
        """
        group, prefix = self._running[role].group, self._kafka.topic_prefix
        if not groups_of(self._kafka, [group])[group].is_empty:
            raise Misused(
                f"{role} has workers, or had some until a moment ago",
                "stop them; one that was killed is a member until its session has timed out (6 s)",
            )
        if self._settings.registry.register_schemas:
            self._registry.register_all()
        if self._settings.kafka.create_topics:
            ensure_topics(self._kafka, [AUDIT])
        codec = WireCodec(self._registry)
        records: list[tuple[str, bytes, bytes | None, int | None]] = []
        for loss in losses:
            gap = {
                "action": ACCEPT_LOSS,
                "target": f"{role}/{loss.topic}/{loss.partition}/{loss.first}-{loss.last}",
                "by": who(),
                "reason": reason,
                "undo": "",
            }
            key = f"{role}/{loss.partition}".encode()
            records.append((AUDIT.named(prefix), key, codec.encode(AUDIT.subject, gap), 0))
        moved = [loss._replace(topic=prefix + loss.topic) for loss in losses]
        accept(self._kafka, group, moved, records, f"{prefix}sluicegate.lever.{token_hex(6)}")

    @cached_property
    def _running(self) -> dict[str, Running]:
        """What runs of each role: a lever that took the code at hand for it would move what does not run."""
        return running(self._kafka, self._settings, deployed(self._kafka, self._settings))

    def close(self) -> None:
        """Let the connections go."""
        self._registry.close()


def _records(move: Move, by: str, reason: str) -> tuple[dict[str, object] | None, dict[str, object]]:
    """Return the control (None = it is taken back) and the audit record of a move."""
    target, told = move.target, {"by": by, "reason": reason}
    audit: dict[str, object] = {"action": move.action, "target": str(target), "undo": move.undo, **told}
    if move.action in _TAKES_BACK:
        return None, audit
    partition = -1 if isinstance(target, KeyTarget) or target.partition is None else target.partition
    return {"role": target.role, "partition": partition, "action": move.action, **told}, audit
