"""Moves the levers that the roles' workers obey: a control and its audit record, in one transaction."""

from __future__ import annotations

import shlex
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from connectors.kafka.admin import ensure_topics, group_lag
from connectors.kafka.committed import CommittedReader
from connectors.kafka.slot import ProducerSlot
from connectors.registry import Registry
from ops.person import who
from schemas.controls import PAUSE, Target, target_of
from schemas.topics import AUDIT, CONTROLS
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.options import KafkaOptions
    from ops.settings import Settings

_TIMEOUT_MS: Final = 10_000


def paused_in(kafka: KafkaOptions) -> list[Target]:
    """Return what is paused now, of all roles; raises KafkaUnavailable."""
    found: dict[Target, bool] = {}
    reader = CommittedReader(kafka, CONTROLS.named(kafka.topic_prefix))
    try:
        for message in reader.present():
            target = target_of(message.key())
            if target is not None:
                found[target] = message.value() is not None
    finally:
        reader.close()
    return sorted((target for target, holds in found.items() if holds), key=str)


def undo_of(action: str, target: Target) -> str:
    """Return the command that takes ``pause`` or ``resume`` of a target back."""
    where = target.role if target.partition is None else f"{target.role} {target.partition}"
    if action == PAUSE:
        return f"sluicegate resume {where} --yes"
    return f"sluicegate pause {where} --reason {shlex.quote('resumed too early')} --yes"


class Levers:
    """The levers of one deployment; to be closed."""

    def __init__(self, settings: Settings, kafka: KafkaOptions, registry_url: str) -> None:
        self._settings = settings
        self._kafka = kafka
        self._registry = Registry(registry_url)

    def partitions_of(self, role: str) -> set[int]:
        """Return the numbers of the partitions that a role has committed; none = it never ran."""
        group = f"{self._kafka.topic_prefix}sluicegate.{role}"
        return {partition.partition for partition in group_lag(self._kafka, group)}

    def paused(self) -> list[Target]:
        """Return what is paused now, of all roles."""
        return paused_in(self._kafka)

    def pause(self, targets: Sequence[Target], reason: str) -> None:
        """Pause each of the targets, or none.

        Raises:
            AppendFailed: Kafka did not take it, or nobody knows; it may be done again.
        """
        self._move(PAUSE, targets, reason)

    def resume(self, targets: Sequence[Target], reason: str) -> None:
        """Take the pauses of each of the targets back, or of none; raises as ``pause``."""
        self._move("resume", targets, reason)

    def close(self) -> None:
        """Let the connections go."""
        self._registry.close()

    def _move(self, action: str, targets: Sequence[Target], reason: str) -> None:
        if self._settings.registry.register_schemas:
            self._registry.register_all()
        if self._settings.kafka.create_topics:
            ensure_topics(self._kafka, [CONTROLS, AUDIT])
        codec, by, prefix = WireCodec(self._registry), who(), self._kafka.topic_prefix
        records: list[tuple[str, bytes, bytes | None, int | None]] = []
        for target in targets:
            told = {"by": by, "reason": reason}
            partition = -1 if target.partition is None else target.partition
            control = {"role": target.role, "partition": partition, "action": action, **told}
            audit = {"action": action, "target": str(target), "undo": undo_of(action, target), **told}
            value = codec.encode(CONTROLS.subject, control) if action == PAUSE else None
            key = str(target).encode()
            records.append((CONTROLS.named(prefix), key, value, 0))
            records.append((AUDIT.named(prefix), key, codec.encode(AUDIT.subject, audit), 0))
        slot = ProducerSlot(self._kafka, f"{prefix}sluicegate.lever.{token_hex(6)}", _TIMEOUT_MS)
        try:
            slot.append(records)
        finally:
            slot.close()
