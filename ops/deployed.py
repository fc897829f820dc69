"""What is on record of each role, for the commands that tell of what runs and not of the code at hand."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from connectors.kafka.roster import Roster
from connectors.registry import Registry
from ops.addresses import addresses
from schemas.wire import WireCodec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.kafka.options import KafkaOptions
    from connectors.kafka.roster import Row
    from ops.settings import Settings


def deployed(kafka: KafkaOptions, settings: Settings) -> Mapping[str, Row]:
    """Return what is on record, by role; nothing of a role that no worker ever ran.

    Raises:
        KafkaUnavailable, NotAuthorized: of the topic of records.
        RegistryUnavailable: its schema is not known here yet.
    """
    registry = Registry(addresses(settings).registry_url)
    with closing(registry), closing(Roster(kafka, WireCodec(registry))) as roster:
        return roster.read()
