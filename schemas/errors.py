"""What can be wrong with an event, its bytes, a cursor or a schema.

SluicegateError
├── ContractError
│   ├── InvalidEvent          a field breaks the contract
│   ├── UnknownKind           no such kind is declared
│   └── UnknownType           no schema is known for the type
├── WireError                 the bytes of one record
│   ├── BadMagic              not a Confluent frame
│   ├── UnknownSchemaId       the registry does not know the frame's schema id
│   ├── Undecodable           the bytes do not fit the schema, or the schema is refused
│   ├── Unencodable           the record does not fit the schema
│   └── TooLarge              more bytes than the limit
├── CursorError
│   ├── MalformedCursor       not a cursor of ours
│   └── ForeignCursor         a cursor of another stream
└── SchemaError
    ├── IncompatibleSchema    the registry refuses the change
    └── RegistryUnavailable   the registry does not answer: retry, it says nothing about a record
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.meant import meant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class SluicegateError(Exception):
    """Base of every error that sluicegate raises on purpose.

    ``str(error)`` says what is wrong and where; ``remedy`` says what to do about it.
    """

    remedy: str = ""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        if remedy is not None:
            self.remedy = remedy


class ContractError(SluicegateError):
    """The producer sent what the contract does not allow."""


class InvalidEvent(ContractError):
    """One field of an event breaks the contract."""

    remedy = "Correct the field and send the request again; CONTRACT.md lists every field with its bounds."

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class UnknownKind(ContractError):
    """No kind of that name is declared."""

    def __init__(self, kind: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(
            f"kind {kind!r} is not declared{meant(kind, names)}",
            remedy=f"Use one of: {', '.join(names)}; or declare the kind with its six policies.",
        )
        self.kind = kind


class UnknownType(ContractError):
    """No schema is registered for the type's subject."""

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        super().__init__(
            f"no schema is registered for {name!r}{meant(name, known)}",
            remedy="Check the name; a type of your own needs its schema registered under "
            "sluicegate.payload.<type>, ours come with `sluicegate schemas register`.",
        )
        self.name = name


class WireError(SluicegateError):
    """The bytes of one record cannot be read or written: its own fault, a retry changes nothing.

    ``index`` is the record's place in a batch, -1 for a single record.
    """

    index: int = -1

    remedy = (
        "The record goes to the dead letters with its bytes and coordinates; mend its producer, then replay."
    )


class BadMagic(WireError):
    """The value does not start with the frame of the Confluent wire format."""

    def __init__(self, data: bytes) -> None:
        what = f"starts with {data[:5].hex(' ')}" if data else "is empty"
        super().__init__(
            f"not a Confluent frame: a value of {len(data)} bytes {what}, "
            "where 00 and a schema id of four bytes were expected"
        )


class UnknownSchemaId(WireError):
    """The registry does not know the schema id of the frame."""

    def __init__(self, schema_id: int, source: str) -> None:
        super().__init__(f"schema id {schema_id} is not known to {source}")
        self.schema_id = schema_id


class Undecodable(WireError):
    """The bytes do not fit their schema, or the schema itself is refused."""

    def __init__(self, problem: str, *, schema_id: int = -1) -> None:
        where = f"schema id {schema_id}: " if schema_id >= 0 else ""
        super().__init__(where + problem)
        self.problem = problem
        self.schema_id = schema_id


class Unencodable(WireError):
    """The record does not fit the schema that it is written with."""

    remedy = "The caller built a record that lacks a field or has a wrong type in it: mend the caller."


class TooLarge(WireError):
    """A value has more bytes than the limit."""

    def __init__(self, size_bytes: int, limit_bytes: int, what: str = "value") -> None:
        super().__init__(
            f"{what} of {size_bytes} bytes is over the limit of {limit_bytes} bytes",
            remedy="Split it over several events, or publish a reference to it.",
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class CursorError(SluicegateError):
    """A client's position cannot be used."""


class MalformedCursor(CursorError):
    """The text is not a cursor that this software wrote."""

    remedy = "Send the id of the last event exactly as it was received, or none to start over."

    def __init__(self, problem: str) -> None:
        super().__init__(f"cursor is malformed: {problem}")
        self.problem = problem


class ForeignCursor(CursorError):
    """A well-formed cursor that belongs to another tenant or stream."""

    remedy = "Use a cursor only with the stream that it was received from."

    def __init__(self) -> None:
        super().__init__("cursor belongs to another stream")


class SchemaError(SluicegateError):
    """The schema registry refuses, or cannot be asked."""


class IncompatibleSchema(SchemaError):
    """The registry refuses a schema because readers or writers of other versions would break."""

    def __init__(self, subject: str, problems: Sequence[str], versions: Sequence[int] = ()) -> None:
        against = f" with version {', '.join(map(str, versions))}" if versions else ""
        reasons = "; ".join(problems) or "no reason given"
        super().__init__(
            f"schema of {subject} is not FULL_TRANSITIVE compatible{against}: {reasons}",
            remedy="Give every new field a default and remove only fields that have one; "
            "any other change needs a new subject or a new topic version.",
        )
        self.subject = subject
        self.problems = tuple(problems)
        self.versions = tuple(versions)


class RegistryUnavailable(SchemaError):
    """The registry did not answer; it says nothing about a record, so retry and never drop."""

    transient = True  # an agent that raises it waits; without this, its event would become a dead letter

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(
            f"schema registry at {url} cannot be reached: {problem}",
            remedy="Check that it runs (`sluicegate status`) and that SLUICEGATE_REGISTRY__URL "
            "is the base of its Confluent API (…/apis/ccompat/v7 for Apicurio).",
        )
        self.url = url
        self.problem = problem
