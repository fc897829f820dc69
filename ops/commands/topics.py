"""`sluicegate topics`: create, list and describe the topics of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions
    from schemas.topics import TopicSpec

AsJson = Annotated[bool, Parameter(name="--json", negative=())]


def register(app: App) -> None:
    """Add the commands to the app."""
    topics = App(name="topics", help="Create, list and describe the topics.")
    topics.command(create_command, name="create")
    topics.command(list_command, name="list")
    topics.command(describe_command, name="describe")
    app.command(topics)


def create_command(*, as_json: AsJson = False) -> int:
    """Create the topics that are missing, and say where those that exist differ from the table.

    Exit code 1 if a topic exists and cannot serve: its partitions, compaction or timestamps differ.

    Example: `sluicegate topics create`

    Parameters
    ----------
    as_json
        Print the answer as JSON.
    """
    from connectors.kafka.admin import ensure_topics
    from ops import console
    from schemas.topics import TOPICS

    done = ensure_topics(_options(), TOPICS)
    if as_json:
        console.print_json({"created": list(done.created), "warnings": list(done.warnings)})
        return 0
    for name in done.created:
        console.out().print(f"created {name}")
    if not done.created:
        console.note("every topic is there")
    for warning in done.warnings:
        console.warn(warning)
    return 0


def list_command(*, as_json: AsJson = False) -> int:
    """List the topics of the table: which exist, their partitions and how long they keep what.

    Example: `sluicegate topics list`

    Parameters
    ----------
    as_json
        Print the list as JSON.
    """
    from connectors.kafka.admin import list_topics
    from ops import console
    from schemas.topics import TOPICS

    options = _options()
    existing = set(list_topics(options))
    rows = [_row(spec, options, existing) for spec in TOPICS]
    if as_json:
        console.print_json(list(rows))
        return 0
    for spec, row in zip(TOPICS, rows, strict=True):
        state = "" if row["exists"] else "  (missing: `sluicegate topics create`)"
        console.out().print(
            f"{row['name']!s:<36} {spec.partitions:>2} partitions  {spec.cleanup:<15}"
            f" {_days(spec.retention_ms):<8}{state}"
        )
    return 0


def describe_command(name: str, *, as_json: AsJson = False) -> int:
    """Describe one topic: what it is for, its key and subject, and its configuration at the broker.

    Example: `sluicegate topics describe streams.output.v1`

    Parameters
    ----------
    name
        Name of the topic, with or without the deployment's prefix.
    as_json
        Print the description as JSON.
    """
    from connectors.kafka.admin import describe_topics
    from ops import console
    from ops.errors import Misused
    from schemas.topics import TOPICS

    options = _options()
    spec = next((spec for spec in TOPICS if name in (spec.name, spec.named(options.topic_prefix))), None)
    if spec is None:
        names = ", ".join(spec.name for spec in TOPICS)
        raise Misused(f"topic {name!r} is not in the table", f"name one of {names}")
    states = describe_topics(options, [spec])
    row = _row(spec, options, {state.name for state in states})
    if states:
        wanted = spec.config()
        row["replicas"] = states[0].replicas
        row["under_replicated"] = states[0].under_replicated
        row["partitions"] = states[0].partitions
        row["config"] = {key: states[0].config.get(key) for key in (*wanted, "min.insync.replicas")}
    if as_json:
        console.print_json(row)
        return 0
    for key, value in row.items():
        if isinstance(value, dict):
            for inner, text in value.items():
                console.out().print(f"{inner:<24} {text}")
        else:
            console.out().print(f"{key:<24} {value}")
    return 0


def _options() -> KafkaOptions:
    from ops.addresses import addresses, kafka_options
    from ops.settings import Settings

    settings = Settings()
    return kafka_options(settings, addresses(settings).kafka)


def _row(spec: TopicSpec, options: KafkaOptions, existing: set[str]) -> dict[str, object]:
    name = spec.named(options.topic_prefix)
    return {
        "name": name,
        "exists": name in existing,
        "doc": spec.doc,
        "key": spec.key,
        "subject": spec.subject,
        "partitions": spec.partitions,
        "cleanup": spec.cleanup,
        "retention_ms": spec.retention_ms,
        "max_message_bytes": spec.max_message_bytes,
    }


def _days(milliseconds: int) -> str:
    return "for ever" if milliseconds < 0 else f"{milliseconds / 86_400_000:g} d"
