"""`sluicegate dlq`: what could not be handled, where it stands, and why."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from ops.commands.dlq_replay import replay_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connectors.kafka.deadletters import DeadLetter, DeadLetterReader
    from connectors.kafka.options import KafkaOptions
    from schemas.record import Headers
    from schemas.wire import WireCodec

AsJson = Annotated[bool, Parameter(name="--json", negative=())]

_PREVIEW_BYTES = 512
_HEADERS_MAX, _HEADER_BYTES = 32, 200
_LIMIT_MAX = 10_000  # all of them are held at once, and a letter may have a megabyte


def register(app: App) -> None:
    """Add the commands to the app."""
    dlq = App(name="dlq", help="List, show and replay dead letters: records that could not be handled.")
    dlq.command(list_command, name="list")
    dlq.command(show_command, name="show")
    dlq.command(replay_command, name="replay")
    app.command(dlq)


def list_command(*, limit: int = 20, as_json: AsJson = False) -> int:
    """List the newest dead letters, the newest first.

    Example: `sluicegate dlq list --limit 5`

    Parameters
    ----------
    limit
        How many.
    as_json
        Print a JSON document: coordinates, cause and detail of each.
    """
    from rich.table import Table

    from ops import console
    from ops.errors import Misused

    if not 1 <= limit <= _LIMIT_MAX:
        raise Misused(f"--limit {limit} is not between 1 and {_LIMIT_MAX:,}", "give a number of letters")
    with _reader() as (reader, _, _):
        letters = reader.newest(limit)
    if as_json:
        console.print_json({"dead_letters": [_facts(letter) for letter in letters]})
        return 0
    if not letters:
        console.note("no dead letters")
        return 0
    table = Table(box=None, pad_edge=False)
    for title in ("id", "when", "from", "cause", "detail"):
        table.add_column(
            title, overflow="fold" if title == "detail" else "ellipsis", no_wrap=title != "detail"
        )
    for letter in letters:
        facts = _facts(letter)
        table.add_row(letter.id, str(facts["time"]), str(facts["from"]), letter.cause, str(facts["detail"]))
    console.out().print(table)
    console.note("`sluicegate dlq show ID` shows one whole")
    return 0


def show_command(
    letter_id: Annotated[str, Parameter(name="ID")],
    *,
    as_json: AsJson = False,
    raw: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    r"""Show one dead letter: coordinates, cause, headers, what its bytes look like, and its replay.

    Preview and headers are escaped, and what looks like a secret is masked; `--raw` shows every byte.

    Example: `sluicegate dlq show 2:1041`

    Parameters
    ----------
    letter_id
        PARTITION:OFFSET, as `dlq list` gives it.
    as_json
        Print a JSON document; with --raw the value is in it as base64, headers in hexadecimal.
    raw
        Show the whole value and all headers in hexadecimal, masking nothing.
    """
    from base64 import b64encode

    from ops import console
    from ops.errors import Misused, OpsError
    from ops.redaction import escaped, hex_dump

    partition, _, offset = letter_id.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise Misused(f"{letter_id!r} is no dead letter's id", "give PARTITION:OFFSET, as `dlq list` does")
    with _reader() as (reader, codec, kafka):
        letter = reader.at(int(partition), int(offset))
        if letter is None:
            raise OpsError(
                f"no dead letter stands at {letter_id}", "`sluicegate dlq list` gives those there are"
            )
        event, replay = _event_in(letter, codec), _replay_of(letter, kafka, codec)
    headers = _shown(letter.headers, raw=raw)
    facts = _facts(letter) | {"replay": replay, "event": event}
    facts |= {"preview": escaped(letter.value, _PREVIEW_BYTES)}
    if as_json:
        facts |= {"headers": [{"name": name, "value": value} for name, value in headers]}
        console.print_json(facts | ({"value_base64": b64encode(letter.value).decode()} if raw else {}))
        return 0
    preview = facts.pop("preview")
    for name, value in facts.items():
        if isinstance(value, dict):
            value = "  ".join(f"{key}={part}" for key, part in value.items())  # noqa: PLW2901  # as it is shown
        if value not in ("", None):
            console.out().print(f"{name:<13} {value}")
    for name, value in headers:
        console.out().print(f"{'header':<13} {name}{'' if value is None else f'={value}'}")
    if len(headers) < len(letter.headers):
        console.note(f"{len(letter.headers) - len(headers)} more headers; --raw shows all")
    console.out().print("value" if raw else "preview")
    console.out().print(hex_dump(letter.value) if raw else f"  {preview}")
    return 0


@contextmanager
def _reader() -> Iterator[tuple[DeadLetterReader, WireCodec, KafkaOptions]]:
    from connectors.kafka.deadletters import DeadLetterReader
    from connectors.registry import Registry
    from ops.addresses import addresses, kafka_options
    from ops.settings import Settings
    from schemas.topics import DEAD_LETTERS
    from schemas.wire import WireCodec

    settings = Settings()
    where = addresses(settings)
    codec = WireCodec(Registry(where.registry_url), value_bytes_max=DEAD_LETTERS.max_message_bytes)
    kafka = kafka_options(settings, where.kafka)
    reader = DeadLetterReader(kafka, codec)
    try:
        yield reader, codec, kafka
    finally:
        reader.close()


def _facts(letter: DeadLetter) -> dict[str, object]:
    from ops.redaction import escaped
    from schemas.published import time_text
    from schemas.redaction import redacted

    return {
        "id": letter.id,
        "time": time_text(letter.time_us) if letter.time_us else "",
        "from": f"{letter.from_topic}[{letter.from_partition}]@{letter.from_offset}",
        "key": escaped(letter.key, 200) if letter.key is not None else None,
        "cause": letter.cause,
        "detail": escaped(redacted(letter.detail).encode(), 2_000),
        "agent": letter.agent,
        "raised_at": letter.raised_at,
        "code_version": letter.code_version,
        "generation": letter.generation or None,
        "attempts": letter.attempts,
        "schema_id": letter.schema_id,
        "size_bytes": len(letter.value),
    }


def _replay_of(letter: DeadLetter, kafka: KafkaOptions, codec: WireCodec) -> dict[str, object] | None:
    """Return the letter's last replay, and of a record that was handed back whether its agent had it."""
    from connectors.kafka.lag import committed_positions
    from connectors.kafka.replays import Replays
    from pipelines.generations import group_of
    from schemas.published import time_text

    replay = Replays(kafka, codec).all().get(letter.id)
    if replay is None or replay.letter_time_us != letter.time_us:
        return None
    told: dict[str, object] = {"time": time_text(replay.time_us), "by": replay.by, "reason": replay.reason}
    if not replay.role:
        return told | {"state": "appended", "to": replay.topic}
    stands = committed_positions(kafka, group_of(kafka.topic_prefix, replay.role, replay.generation))
    at = stands.get((replay.topic, replay.partition))
    had = at is not None and at.handback >= replay.number
    return told | {"state": "handled" if had else "waits", "to": replay.role}


def _shown(headers: Headers, *, raw: bool) -> list[tuple[str, str | None]]:
    """Names and values as they may be shown: the first ones escaped, or all with values in hexadecimal."""
    from ops.redaction import escaped
    from schemas.redaction import redacted

    shown: list[tuple[str, str | None]] = []
    for name, value in headers if raw else headers[:_HEADERS_MAX]:
        title = escaped(name.encode(), 4 * len(name) if raw else _HEADER_BYTES)
        if value is None or raw:
            shown.append((title, None if value is None else value.hex(" ")))
        else:  # together: it is the name that says of a value that it is a secret
            pair = redacted(f"{title}={escaped(value, _HEADER_BYTES)}")
            shown.append((title, pair.removeprefix(f"{title}=")))
    return shown


def _event_in(letter: DeadLetter, codec: WireCodec) -> dict[str, object] | None:
    """The envelope, if the bytes are an event after all: order and lifecycle may be what is wrong with it."""
    from schemas.errors import SluicegateError

    try:
        event = codec.decode_event(letter.value)
    except SluicegateError:
        return None
    return {
        "tenant": event.tenant,
        "stream_id": event.stream_id,
        "seq": event.seq,
        "kind": event.kind,
        "type": event.type,
        "event_id": event.event_id,
    }
