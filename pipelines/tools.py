"""What agents share: codecs, kinds and the maker of dead letters. Built once by the composition root."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

import pyarrow.compute as pc
import structlog

from connectors.kafka.columns import Columns, columns_of
from pipelines.decoding import RowDecoder
from schemas.batch import BatchReader
from schemas.catalog import EVENT, PAYLOAD_PREFIX, subjects
from schemas.envelope import INT_MAX, Event
from schemas.errors import BadMagic, ContractError, WireError
from schemas.letters import cut_note
from schemas.record import UNREADABLE, Record
from schemas.topics import DEAD_LETTERS
from schemas.wire import schema_id_of
from state.effects import Append
from state.store import RECORD_OVERHEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connectors.kafka.chunk import Chunker
    from schemas.kinds import KindTable
    from schemas.payloads import PayloadCodec
    from schemas.topics import TopicSpec
    from schemas.wire import WireCodec

log = structlog.get_logger(__name__)

_KEY_BYTES_MAX: Final = 1_024  # far above any key of ours, far below what a topic takes
_NAME_CHARACTERS_MAX: Final = 256
_DETAIL_CHARACTERS_MAX: Final = 4_096
_VERSION_CHARACTERS_MAX: Final = 128
# What a letter holds besides key and value: the texts, at most four bytes a character, a topic's name (249),
# the version and the numbers.
_REST_BYTES_MAX: Final = 4 * (_DETAIL_CHARACTERS_MAX + 3 * _NAME_CHARACTERS_MAX) + 1_024

Decode = Callable[[Sequence[Record]], list[Any]]


@dataclass(frozen=True, slots=True)
class Tools:
    """The codecs and tables that agents work with."""

    codec: WireCodec
    payloads: PayloadCodec
    kinds: KindTable
    _events: RowDecoder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_events", RowDecoder(self.codec))

    def warm(self) -> None:
        """Fetch what reading and writing our own schemas takes; blocks, so call it before the loop runs.

        Raises:
            UnknownType: a schema of ours is not registered.
            RegistryUnavailable: no answer.
        """
        ours = [subject for subject in subjects() if not subject.startswith(PAYLOAD_PREFIX)]
        self.codec.warm(ours)
        self.payloads.warm(subject.removeprefix(PAYLOAD_PREFIX) for subject in subjects().keys() - set(ours))

    def decode_events(self, records: Sequence[Record]) -> list[Any]:
        """Decode envelopes; what does not decode is given as its ``WireError``.

        The schemas of their payloads are fetched here too, off the event loop: an agent that met one for the
        first time would stop the whole role for as long as the registry takes.

        Raises:
            RegistryUnavailable: a schema must be fetched and cannot; nothing is said about the records.
        """
        decoded = self._events(records)
        self._fetch_payload_schemas({item.payload_schema for item in decoded if isinstance(item, Event)})
        return decoded

    def _fetch_payload_schemas(self, schema_ids: Iterable[int]) -> None:
        for schema_id in schema_ids:
            if not 1 <= schema_id <= INT_MAX:  # a tick's, or one that the gate refuses
                continue
            with suppress(ContractError, WireError):  # what is wrong with it is the agent's to say
                self.payloads.subject_of(schema_id)

    def decoder(self, subject: str) -> Decode:
        """Return a decoder of ``subject`` to dicts (None = a tombstone), errors among them as above."""
        return RowDecoder(self.codec, subject)

    def columns(self, subject: str = EVENT, *, logical_types: bool = True) -> Chunker:
        """Return what gives a batch agent the records of a ``subject`` as Arrow columns.

        Which type of Arrow's each of Avro's is says ``schemas/arrow.py``; without ``logical_types`` a time is
        the number that it is on the wire. Of events the schemas of their payloads are fetched as well, as by
        ``decode_events``.

        Raises:
            ValueError: the subject's schema holds itself.
            UnknownType: there is no schema to read it as.
        """

        def by_row(schema_id: int, why: str) -> None:
            log.info("records of a writer's schema become columns one by one", subject=subject,
                     schema_id=schema_id, cause=why)  # fmt: skip

        reader = BatchReader(self.codec, subject, logical_types=logical_types, on_rows=by_row)
        if reader.by_row:
            log.info("records become columns one by one, not at once", subject=subject, cause=reader.by_row)

        def decode(values: Sequence[bytes | None]) -> Columns:
            found = Columns(*reader.sort_out(values))
            if subject == EVENT:
                self._fetch_payload_schemas(pc.unique(found.batch["payload_schema"]).to_pylist())
            return found

        return columns_of(decode)

    def dead_letters(self, code_version: str = "", generation: int = 0) -> DeadLetterMaker:
        """Return the maker of dead letters of code of a version, empty = of ours; 0 = of no role."""
        return DeadLetterMaker(self.codec, code_version, generation)


class DeadLetterMaker:
    """Satisfies ``state.effects.DeadLetters``.

    A letter never raises and always fits its topic: one that could not be written would stop its role, or
    its record would vanish.
    """

    def __init__(self, codec: WireCodec, code_version: str = "", generation: int = 0) -> None:
        """Take the schemas of ``codec``; blocks until the letters' own is there, raises as ``warm``."""
        self._codec = codec.limited(DEAD_LETTERS.max_message_bytes)
        self._codec.warm((DEAD_LETTERS.subject,))
        self._generation = generation
        self._code_version = short_text(code_version, _VERSION_CHARACTERS_MAX) or _our_version()

    def letter(
        self, record: Record, *, agent: str, cause: str, detail: str, attempts: int, raised_at: str = ""
    ) -> Append:
        """Return the dead letter of ``record``: its bytes, coordinates, schema id and cause.

        Bytes that the topic does not take are cut, and ``detail`` says so: the record is read whole at its
        coordinates, for as long as its own topic keeps it.
        """
        letter = {
            "cause": short_text(cause, _NAME_CHARACTERS_MAX),
            "detail": short_text(detail, _DETAIL_CHARACTERS_MAX),
            "agent": short_text(agent, _NAME_CHARACTERS_MAX),
            "code_version": self._code_version,
            "generation": self._generation,
            "attempts": attempts,
            "raised_at": short_text(raised_at[-_NAME_CHARACTERS_MAX:], _NAME_CHARACTERS_MAX),
        }
        return fitting(self._codec, DEAD_LETTERS, DEAD_LETTERS.subject, record, letter, _REST_BYTES_MAX)


def fitting(
    codec: WireCodec,
    topic: TopicSpec,
    subject: str,
    record: Record,
    letter: Mapping[str, Any],
    rest_bytes_max: int,
) -> Append:
    """Return what to append for ``record``: its bytes and coordinates beside the fields of ``letter``.

    Key and value are cut to what the topic takes, less ``rest_bytes_max`` for all else, and headers that it
    does not take with them, or that cannot be read, are left out; ``detail`` says so.
    """
    value, headers = record.value or b"", record.headers
    whole = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": record.key,
        "value": value,
        "headers": [{"name": name, "value": header} for name, header in headers],
        "schema_id": _framed_schema_id(value),
        "time_us": record.timestamp_us,
        **letter,
    }
    # The partition is said, so the key is for people; it stands whole in the value.
    key = None if record.key is None else record.key[:_KEY_BYTES_MAX]
    room = topic.max_message_bytes - RECORD_OVERHEAD_BYTES - len(key or b"") - rest_bytes_max
    if headers is UNREADABLE or record.size_bytes > room:
        whole |= _cut(record, whole["detail"], max(room, 0))
    # An agent's own topic may have more partitions.
    return Append(topic, key, codec.encode(subject, whole), record.partition % topic.partitions)


def _cut(record: Record, detail: str, room: int) -> dict[str, Any]:
    """Return what of a record fits into ``room`` bytes, without its headers, and the detail that says so."""
    key, value, headers = record.key, record.value or b"", record.headers
    left_out = "headers that are no UTF-8" if headers is UNREADABLE else f"{len(headers)} headers"
    note = cut_note(len(key or b""), len(value), left_out if headers or headers is UNREADABLE else "")
    if len(key or b"") + len(value) > room:
        key = None if key is None else key[:_KEY_BYTES_MAX]
        value = value[: max(room - len(key or b""), 0)]
    return {
        "key": key,
        "value": value,
        "headers": [],
        "detail": short_text(note + detail, _DETAIL_CHARACTERS_MAX),
    }


def short_text(text: str, characters_max: int) -> str:
    """Return a text that Avro can hold: bounded, and without lone surrogates."""
    return text[:characters_max].encode("utf-8", "replace").decode()


def _framed_schema_id(value: bytes) -> int:
    """Return the id of a value's frame, -1 if it has none or one that no registry gives."""
    try:
        schema_id = schema_id_of(value)
    except BadMagic:
        return -1
    return schema_id if schema_id <= INT_MAX else -1


def _our_version() -> str:
    try:
        return version("sluicegate")
    except PackageNotFoundError:
        return "unknown"
