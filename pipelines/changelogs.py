"""What changelogs keep, as the broker has them: one that deletes what a store needs loses state."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from connectors.kafka.admin import describe_topics
from connectors.kafka.errors import TopicMismatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from connectors.kafka.options import KafkaOptions
    from pipelines.partitions import Source
    from schemas.topics import TopicSpec
    from state.schema import StoreSchema


class Retention(NamedTuple):
    """How long a changelog keeps what, milliseconds."""

    records_ms: int
    """``retention.ms``, 0 where ``retention.bytes`` bounds it, too: a record may go at any age then; -1 = for
    ever: nothing but an operator takes its beginning."""
    tombstones_ms: int
    """``delete.retention.ms``. An older store may have missed some: what was deleted would stand in it."""

    @classmethod
    def declared(cls, changelog: TopicSpec) -> Retention:
        """Return what a topic is to keep by its declaration."""
        records_ms = changelog.retention_ms if "delete" in changelog.cleanup else -1
        return cls(records_ms, changelog.tombstones_ms)

    @classmethod
    def of(cls, config: Mapping[str, str]) -> Retention:
        """Return what a topic keeps by its configuration, as the broker has it."""
        if "delete" not in config["cleanup.policy"]:
            records_ms = -1
        elif int(config["retention.bytes"]) >= 0:
            records_ms = 0
        else:
            records_ms = int(config["retention.ms"])
        return cls(records_ms, int(config["delete.retention.ms"]))


def keeps_too_little(cleanup: str, retention_ms: int, store: StoreSchema) -> str:
    """Say why a changelog of this cleanup would lose what stands in the store; empty = it does not.

    ``retention_ms`` -1 = for ever. A store that is not declared, or declares nothing that expires, is not
    judged by its retention: nothing is known of how long its entries are needed.
    """
    policies = {policy.strip() for policy in cleanup.split(",")}
    if "compact" not in policies:
        return f"cleanup.policy={cleanup} deletes state that is in use: it must be compact"
    if "delete" in policies and 0 <= retention_ms < store.lives_ms:
        return (
            f"cleanup.policy={cleanup} deletes after retention.ms={retention_ms}, and the store needs its "
            f"entries for {store.lives_ms} ms (window, grace and ttl)"
        )
    return ""


def retention_of(kafka: KafkaOptions, sources: Iterable[Source]) -> Mapping[str, Retention]:
    """Return how long each changelog keeps what, by full name; those that exist alone.

    Raises:
        TopicMismatch: one deletes what its store needs, or is not cleaned up as its agent declares.
        KafkaUnavailable: no answer.
        NotAuthorized: DescribeConfigs is not allowed on one.
    """
    wanted: dict[str, tuple[TopicSpec, StoreSchema]] = {
        source.changelog.named(kafka.topic_prefix): (source.changelog, source.store)
        for source in sources
        if source.changelog is not None
    }
    if not wanted:
        return {}
    found = {}
    for state in describe_topics(kafka, [spec for spec, _ in wanted.values()]):
        spec, store = wanted[state.name]
        cleanup = state.config["cleanup.policy"]
        problem = keeps_too_little(cleanup, int(state.config["retention.ms"]), store)
        if not problem and set(cleanup.split(",")) != set(spec.cleanup.split(",")):
            problem = f"has cleanup.policy={cleanup}, its agent declares {spec.cleanup}"
        if problem:
            config = spec.config()
            keys = ("cleanup.policy", "retention.ms")
            raise TopicMismatch(
                state.name,
                problem,
                f"Alter it: kafka-configs.sh --alter --topic {state.name} --add-config "
                f"'{','.join(f'{key}=[{config[key]}]' for key in keys)}'. What was deleted is gone: "
                "runbooks/checkpoint-failure.md.",
            )
        found[state.name] = Retention.of(state.config)
    return found
