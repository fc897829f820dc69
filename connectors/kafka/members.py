"""Who is in a consumer group now, and which partitions each member has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException

from connectors.kafka.access import Asking, refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.kafka.options import KafkaOptions

_CALL_S: Final = 10.0
_GONE: Final = (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)


class Member(NamedTuple):
    """One member of a group."""

    name: str
    """Its static identity, else the id that the broker gave it."""
    host: str
    partitions: tuple[tuple[str, int], ...]
    """(topic, partition) that it has, sorted."""


class Group(NamedTuple):
    """A group as its coordinator sees it."""

    name: str
    state: str
    """``stable``, ``empty``, ``preparing_rebalancing``, …; ``dead`` = nobody ever joined, or long ago."""
    members: tuple[Member, ...]
    """Sorted by name. A static member stays one until its session times out, running or not."""

    @property
    def is_empty(self) -> bool:
        """Whether no process is a member: none can commit an offset of this group."""
        return not self.members and self.state in {state.name.lower() for state in _GONE}


def groups_of(options: KafkaOptions, names: Sequence[str]) -> dict[str, Group]:
    """Return the groups by full name; one that the broker does not know is ``dead``. Blocks.

    Raises:
        KafkaUnavailable: no answer.
        NotAuthorized: an ACL is missing.
    """
    if not names:
        return {}
    asking = Asking(options)
    asked = asking.client.describe_consumer_groups(list(names), request_timeout=_CALL_S)
    asking.wait(asked.values())
    found = {}
    for name, future in asked.items():
        try:
            group = future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise refusal(options, f"Describe group {name}", error.args[0]) from error
            found[name] = Group(name, "dead", ())
            continue
        members = [
            Member(
                member.group_instance_id or member.member_id,
                member.host.lstrip("/"),
                tuple(sorted((at.topic, at.partition) for at in member.assignment.topic_partitions)),
            )
            for member in group.members
        ]
        found[name] = Group(name, group.state.name.lower(), tuple(sorted(members)))
    return found
