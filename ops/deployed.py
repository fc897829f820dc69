"""What is on record of each role, for the commands that tell of what runs and not of the code at hand."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from connectors.kafka.roster import Roster
from connectors.registry import Registry
from ops.addresses import addresses
from ops.extension import extension_at_hand
from pipelines.generations import group_of
from schemas.access import ROLES
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.roster import Row
    from ops.settings import Settings


class Running(NamedTuple):
    """Which generation of a role runs, which is built beside it, and which one the code at hand is."""

    group: str
    """Full name of the consumer group of the one that runs."""
    built: str
    """That of the one that is built; empty = none is."""
    generation: int
    """The one that runs."""
    code: int


def deployed(kafka: KafkaOptions, settings: Settings) -> Mapping[str, Row]:
    """Return what is on record, by role; nothing of a role that no worker ever ran.

    Raises:
        KafkaUnavailable, NotAuthorized: of the topic of records.
        RegistryUnavailable: its schema is not known here yet.
    """
    registry = Registry(addresses(settings).registry_url)
    with closing(registry), closing(Roster(kafka, WireCodec(registry))) as roster:
        return roster.read()


def running(kafka: KafkaOptions, settings: Settings, rows: Mapping[str, Row]) -> dict[str, Running]:
    """Return what runs of each role, ours and the user's own, by ``rows``, what is ``deployed``.

    A role that is not on record has the generation of the code.
    """
    extension = extension_at_hand(settings)
    found = {}
    for role in (*ROLES, *extension.roles):
        code = extension.generation(role)
        row = rows.get(role, {"generation": code, "candidate": 0})
        runs, candidate = (row[name] for name in ("generation", "candidate"))
        group, built = (group_of(kafka.topic_prefix, role, one) for one in (runs, candidate))
        found[role] = Running(group, built if candidate else "", runs, code)
    return found
