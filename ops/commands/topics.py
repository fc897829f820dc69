"""`sluicegate topics`: create, list and describe the topics of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from connectors.kafka.options import KafkaOptions
    from connectors.registry import Registry
    from schemas.topics import TopicSpec

_PREVIEW_BYTES = 512
_LIMIT_MAX = 10_000  # all of them are held at once

AsJson = Annotated[bool, Parameter(name="--json", negative=())]


def register(app: App) -> None:
    """Add the commands to the app."""
    topics = App(name="topics", help="Create, list and describe the topics, and who may do what.")
    topics.command(create_command, name="create")
    topics.command(list_command, name="list")
    topics.command(describe_command, name="describe")
    topics.command(read_command, name="read")
    topics.command(acls_command, name="acls")
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
    from ops.extension import extension_of
    from ops.settings import Settings

    done = ensure_topics(_options(), extension_of(Settings()).all_topics())
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
    """List the topics, yours of SLUICEGATE_PIPELINES among them: which exist, and how long they keep what.

    Example: `sluicegate topics list`

    Parameters
    ----------
    as_json
        Print the list as JSON.
    """
    from connectors.kafka.admin import list_topics
    from ops import console

    options = _options()
    existing = set(list_topics(options))
    specs = options.kept(_topics())
    rows = [_row(spec, options, existing) for spec in specs]
    if as_json:
        console.print_json(list(rows))
        return 0
    for spec, row in zip(specs, rows, strict=True):
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
        Name of a topic of ours or yours, with or without the deployment's prefix.
    as_json
        Print the description as JSON.
    """
    from connectors.kafka.admin import describe_topics
    from ops import console
    from ops.errors import Misused
    from ops.naming import YOURS
    from schemas.meant import meant

    options, topics = _options(), _topics()
    spec = next((spec for spec in topics if name in (spec.name, spec.named(options.topic_prefix))), None)
    if spec is None:
        names = [spec.name for spec in topics]
        raise Misused(
            f"topic {name!r} is not in the table{meant(name, names)}",
            f"name one of {', '.join(names)}; {YOURS}",
        )
    (spec,) = options.kept([spec])
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


def read_command(name: str, *, limit: int = 10, as_json: AsJson = False) -> int:
    """Show the newest committed records of any topic, the oldest first; nothing is consumed.

    Of each its partition and offset, time, key and value.

    A value with a schema of the registry is shown by its fields, another as text or hexadecimal.

    Example: `sluicegate topics read usage.windows.v1 --limit 3`

    Parameters
    ----------
    name
        Name of the topic, with or without the deployment's prefix.
    limit
        How many.
    as_json
        Print a JSON object a line.
    """
    from connectors.kafka.peek import newest
    from connectors.registry import Registry
    from ops import console
    from ops.addresses import addresses
    from ops.errors import Misused
    from ops.redaction import escaped
    from ops.settings import Settings

    if not 1 <= limit <= _LIMIT_MAX:
        raise Misused(f"--limit {limit} is not between 1 and {_LIMIT_MAX:,}", "give a number of records")
    options = _options()
    full = name if name.startswith(options.topic_prefix) else options.topic_prefix + name
    registry = Registry(addresses(Settings()).registry_url)
    try:
        for record in newest(options, full, limit):
            row = {
                "partition": record.partition,
                "offset": record.offset,
                "appended_us": record.timestamp_us,
                "key": (record.key or b"").decode("utf-8", "backslashreplace"),
                "value": _shown(record.value, registry),
            }
            if as_json:
                console.print_json(row)
            else:
                where, key = f"{record.partition}:{record.offset}", escaped(record.key or b"", _PREVIEW_BYTES)
                console.out().print(f"{where}  {_time(record.timestamp_us)}  {key}  {row['value']}")
    finally:
        registry.close()
    return 0


def acls_command(
    *,
    roles: str = "",
    principal: str | None = None,
    as_json: AsJson = False,
    script: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Show the least that each role must be allowed on a Kafka with ACLs; nothing is asked or changed.

    From the table of topics, with the prefix of the settings. An edge, an operator (`topics`, `lag`, `dlq`)
    and a Kafka client that publishes (`producer`) are roles here too.

    Example: `sluicegate topics acls --roles ingest,edge --script`

    Parameters
    ----------
    roles
        Which, with commas; by default all.
    principal
        One principal for all of them, as in User:sluicegate; by default each role has its own, User:ingest.
    as_json
        Print the list as JSON.
    script
        Print lines of kafka-acls.sh for an administrator to run.
    """
    from ops import console
    from ops.access import as_row, as_script, grants_of
    from ops.settings import Settings

    settings = Settings()
    grants = grants_of(settings, [role.strip() for role in roles.split(",") if role.strip()])
    rows = [as_row(grant, principal) for grant in grants]
    if as_json:
        console.print_json(list(rows))
    elif script:
        for line in as_script(rows, settings.kafka.bootstrap_servers):
            console.out().print(line)
    else:
        for row in rows:
            name = row["name"] + ("*" if row["pattern"] == "prefixed" else "")
            console.out().print(f"{row['principal']:<18} {row['operation']:<16} {row['resource']:<17} {name}")
    return 0


def _options() -> KafkaOptions:
    from ops.addresses import addresses, kafka_options
    from ops.settings import Settings

    settings = Settings()
    return kafka_options(settings, addresses(settings).kafka)


def _topics() -> tuple[TopicSpec, ...]:
    from ops.extension import extension_at_hand
    from ops.settings import Settings

    return extension_at_hand(Settings()).all_topics()


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


def _time(time_us: int) -> str:
    """A record's time; a dash for one that is none: in most topics a producer says it."""
    from schemas.published import time_text

    try:
        return time_text(time_us) if time_us > 0 else "-"
    except OverflowError:
        return "-"


def _shown(value: bytes | None, registry: Registry) -> object:
    """The fields of a framed value; another one escaped, without what looks like a secret."""
    import orjson

    from ops.redaction import escaped
    from schemas.codec import Reader
    from schemas.errors import WireError
    from schemas.wire import FRAME_BYTES, schema_id_of

    if value is None:
        return None
    try:
        schema_id = schema_id_of(value)
        fields = Reader(schema_id, registry.schema_of(schema_id), None).read(value, FRAME_BYTES)
    except WireError:
        return escaped(value, _PREVIEW_BYTES)
    text = orjson.dumps(fields, default=lambda part: escaped(part, _PREVIEW_BYTES))
    return orjson.loads(escaped(text, len(text)).encode())
