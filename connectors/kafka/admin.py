"""Topics as the table says: created when missing, compared when there, described for people."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType

from connectors.kafka.access import REFUSALS, Asking, refusal
from connectors.kafka.errors import KafkaUnavailable, TopicMismatch
from connectors.kafka.lag import PartitionLag, group_lag

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from confluent_kafka.admin import AdminClient, TopicMetadata

    from connectors.kafka.options import KafkaOptions
    from schemas.topics import TopicSpec

__all__ = [
    "Ensured", "PartitionLag", "TopicState", "check_partitions", "delete_topics", "describe_topics",
    "ensure_topics", "group_lag", "list_topics", "partition_counts", "topic_ids",
]  # fmt: skip

_CALL_S: Final = 10.0
_VISIBLE_S: Final = 30.0
# What breaks correctness when it differs; any other difference is told and lived with.
_BINDING: Final = ("cleanup.policy", "message.timestamp.type")


@dataclass(frozen=True, slots=True)
class Ensured:
    """What ``ensure_topics`` did and found."""

    created: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """Differences of existing topics that are no errors, with what to do."""


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the broker has it."""

    name: str
    partitions: int
    replicas: int
    under_replicated: int
    """Partitions with fewer replicas in sync than they have."""
    config: dict[str, str] = field(default_factory=dict)


def ensure_topics(options: KafkaOptions, specs: Sequence[TopicSpec]) -> Ensured:
    """Create what is missing of the table, and compare what is there.

    Replication and ``min.insync.replicas`` are the broker's defaults. Safe to run from several processes at
    once; returns when every topic can be written to. May block for some seconds.

    Raises:
        TopicMismatch: a topic that exists cannot serve; names the remedy.
        KafkaUnavailable: no answer.
    """
    asking = Asking(options)
    admin = asking.client
    wanted = {spec.named(options.topic_prefix): spec for spec in options.kept(specs)}
    existing = _metadata(asking)
    missing = [name for name in wanted if name not in existing]
    created = _create(admin, options, {name: wanted[name] for name in missing})
    # Those that another process created meanwhile are compared too: it may be of another version.
    old = [name for name in wanted if name not in created]
    visible = _wait_until_visible(asking, options, list(wanted))
    warnings: list[str] = []
    for name, config in _configs(admin, options, old).items():
        _check_partitions(wanted[name], name, len(visible[name].partitions))
        warnings += _differences(wanted[name], name, config)
    return Ensured(tuple(created), tuple(warnings))


def check_partitions(options: KafkaOptions, specs: Iterable[TopicSpec]) -> None:
    """Compare the topics that exist in what needs no right of its own: their numbers of partitions.

    Raises:
        TopicMismatch: one has another number; names the remedy.
        KafkaUnavailable: no answer.
    """
    counts = partition_counts(options)
    for spec in specs:
        name = spec.named(options.topic_prefix)
        if name in counts:
            _check_partitions(spec, name, counts[name])


def delete_topics(options: KafkaOptions, names: Sequence[str]) -> None:
    """Delete topics, by their names as they stand in Kafka; those that are gone already are no error.

    Raises:
        KafkaUnavailable: no answer.
        NotAuthorized: they may not be deleted.
    """
    if not names:
        return
    asking = Asking(options)  # held until the last answer: what it asked ends with it
    for name, future in asking.client.delete_topics(list(names), request_timeout=_CALL_S).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise refusal(options, f"Delete topic {name}", error.args[0]) from error


def list_topics(options: KafkaOptions) -> list[str]:
    """Return the names of the topics under the options' prefix, sorted; raises KafkaUnavailable."""
    found = _metadata(Asking(options))
    return sorted(name for name in found if name.startswith(options.topic_prefix))


def partition_counts(options: KafkaOptions) -> dict[str, int]:
    """Return how many partitions each topic of the cluster has, by full name; raises KafkaUnavailable."""
    found = _metadata(Asking(options))
    return {name: len(topic.partitions) for name, topic in found.items()}


def topic_ids(options: KafkaOptions, names: Sequence[str]) -> dict[str, str]:
    """Return the identity of each topic that exists, by full name.

    Raises:
        KafkaUnavailable: no answer.
        NotAuthorized: it may not be described.
    """
    if not names:
        return {}
    asking = Asking(options)
    asked = asking.client.describe_topics(TopicCollection(list(names)), request_timeout=_CALL_S)
    asking.wait(asked.values())
    found = {}
    for name, future in asked.items():
        try:
            found[name] = str(future.result().topic_id)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise refusal(options, f"Describe topic {name}", error.args[0]) from error
    return found


def describe_topics(options: KafkaOptions, specs: Iterable[TopicSpec]) -> list[TopicState]:
    """Return those of the topics that exist, as the broker has them; raises KafkaUnavailable."""
    asking = Asking(options)
    found = _metadata(asking)
    names = [name for name in (spec.named(options.topic_prefix) for spec in specs) if name in found]
    configs = _configs(asking.client, options, names)
    return [_state(found[name], configs[name]) for name in names]


def _state(topic: TopicMetadata, config: dict[str, str]) -> TopicState:
    partitions = topic.partitions.values()
    return TopicState(
        name=topic.topic,
        partitions=len(partitions),
        replicas=min((len(partition.replicas) for partition in partitions), default=0),
        under_replicated=sum(len(partition.isrs) < len(partition.replicas) for partition in partitions),
        config=config,
    )


def _metadata(asking: Asking) -> dict[str, TopicMetadata]:
    try:
        found: dict[str, TopicMetadata] = asking.client.list_topics(timeout=_CALL_S).topics
    except KafkaException as error:
        raise asking.unreached(error.args[0]) from error
    return found


def _create(admin: AdminClient, options: KafkaOptions, missing: dict[str, TopicSpec]) -> list[str]:
    if not missing:
        return []
    new = [
        NewTopic(name, num_partitions=spec.partitions, replication_factor=-1, config=spec.config())
        for name, spec in missing.items()
    ]
    created = []
    for name, future in admin.create_topics(new, request_timeout=_CALL_S).items():
        try:
            future.result()
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.TOPIC_ALREADY_EXISTS:
                continue  # another process was quicker: what it made is compared like any other
            if code in REFUSALS:
                raise TopicMismatch(
                    name,
                    f"is missing, or hidden from {options.principal}, who may not create it either",
                    "An operator makes the topics with `sluicegate topics create`; all others have "
                    "SLUICEGATE_KAFKA__CREATE_TOPICS=false, and what `sluicegate topics acls` prints.",
                ) from error
            raise refusal(options, f"Create topic {name}", error.args[0]) from error
        created.append(name)
    return created


def _wait_until_visible(
    asking: Asking, options: KafkaOptions, names: Sequence[str]
) -> dict[str, TopicMetadata]:
    """Wait for a leader of every partition: a broker answers a create before all brokers know of it."""
    deadline = time.monotonic() + _VISIBLE_S
    while True:
        found = _metadata(asking)
        waiting = [name for name in names if not _is_led(found.get(name))]
        if not waiting:
            return found
        if time.monotonic() > deadline:
            raise KafkaUnavailable(
                options.bootstrap_servers, f"topic {waiting[0]} has no leader after {_VISIBLE_S:.0f} s"
            )
        time.sleep(0.1)


def _is_led(topic: TopicMetadata | None) -> bool:
    if topic is None or topic.error is not None or not topic.partitions:
        return False
    return all(partition.leader >= 0 for partition in topic.partitions.values())


def _configs(admin: AdminClient, options: KafkaOptions, names: Sequence[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    found = {}
    for resource, future in admin.describe_configs(asked, request_timeout=_CALL_S).items():
        try:
            entries = future.result()
        except KafkaException as error:
            raise refusal(options, f"DescribeConfigs topic {resource.name}", error.args[0]) from error
        found[resource.name] = {name: str(entry.value) for name, entry in entries.items()}
    return found


def _check_partitions(spec: TopicSpec, name: str, partitions: int) -> None:
    if partitions != spec.partitions:
        raise TopicMismatch(
            name,
            f"has {partitions} partitions, must have {spec.partitions}",
            "The count of a topic version never changes, for keys would move between partitions: "
            "make a new version of the topic and migrate, or remove this one if nothing of it is needed.",
        )


def _differences(spec: TopicSpec, name: str, config: dict[str, str]) -> list[str]:
    warnings = []
    for key, wanted in spec.config().items():
        has = config.get(key)
        if has is None or _same(has, wanted):
            continue
        remedy = f"kafka-configs.sh --alter --topic {name} --add-config '{key}=[{wanted}]'"
        if key in _BINDING:
            raise TopicMismatch(name, f"has {key}={has}, must have {wanted}", f"Alter it: {remedy}")
        warnings.append(f"topic {name} has {key}={has}, the table says {wanted}; to follow it: {remedy}")
    return warnings


def _same(has: str, wanted: str) -> bool:
    return sorted(has.split(",")) == sorted(wanted.split(","))
