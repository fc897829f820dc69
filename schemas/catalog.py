"""Our own schemas, read from ``avro/*.avsc``, and the port through which any schema is looked up."""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from schemas.errors import UnknownSchemaId, UnknownType

if TYPE_CHECKING:
    from collections.abc import Mapping

EVENT: Final = "sluicegate.Event"
PAYLOAD_PREFIX: Final = "sluicegate.payload."
_FOLDER: Final = Path(__file__).parent / "avro"


class SchemaSource(Protocol):
    """Where schemas and their ids come from: a registry, or its twin ``LocalSchemas``.

    Both calls may block for a round trip the first time; results are cached by the source.
    """

    def id_of(self, subject: str) -> int:
        """Return the id to write a subject with: of our own text if it is ours, else of the latest version.

        Raises:
            UnknownType: the subject is not registered.
            RegistryUnavailable: the registry did not answer.
        """
        ...

    def schema_of(self, schema_id: int) -> str:
        """Return the schema's JSON text.

        Raises:
            UnknownSchemaId: no schema has that id.
            RegistryUnavailable: the registry did not answer.
        """
        ...


def payload_subject(type_name: str) -> str:
    """Return the subject of a type's payload."""
    return PAYLOAD_PREFIX + type_name


@cache
def subjects() -> Mapping[str, str]:
    """Return canonical JSON text by subject, for every schema that is ours.

    The subject is the record's full name and the file's name, and no schema refers to another: the order
    of registration does not matter.
    """
    return MappingProxyType(schemas_of(_FOLDER))


def schemas_of(folder: Path) -> dict[str, str]:
    """Return the canonical texts of a folder's ``.avsc`` files by subject, which each file is named after.

    Raises:
        ValueError: a file is no record's schema, or has another name.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.avsc")):
        try:
            schema = orjson.loads(path.read_bytes())
            subject = f"{schema['namespace']}.{schema['name']}"
        except (KeyError, TypeError, orjson.JSONDecodeError) as error:
            raise ValueError(f"{path.name} is no record with namespace and name: {error!r}") from None
        if subject != path.stem:
            raise ValueError(f"{path.name} holds {subject}: name the file after the record")
        found[subject] = orjson.dumps(schema).decode()
    return found


class LocalSchemas:
    """A registry of the files alone: no network, and the same ids for the same texts everywhere."""

    def __init__(self, extra: Mapping[str, str] | None = None) -> None:
        """Take our schemas and ``extra`` ones (JSON text by subject), as a user would register them."""
        self._ids: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        for subject, text in {**subjects(), **(extra or {})}.items():
            self.register(subject, text)

    def register(self, subject: str, text: str) -> int:
        """Make ``text`` the latest version of the subject and return its id."""
        digest = blake2b(f"{subject}\n{text}".encode(), digest_size=4).digest()
        schema_id = (int.from_bytes(digest, "big") & 0x7FFF_FFFF) or 1
        if self._texts.setdefault(schema_id, text) != text:
            raise ValueError(f"ids of two schemas collide: {subject} and another have {schema_id}")
        self._ids[subject] = schema_id
        return schema_id

    def id_of(self, subject: str) -> int:
        """Return the subject's id, or raise UnknownType."""
        try:
            return self._ids[subject]
        except KeyError:
            raise UnknownType(subject) from None

    def schema_of(self, schema_id: int) -> str:
        """Return the schema's text, or raise UnknownSchemaId."""
        try:
            return self._texts[schema_id]
        except KeyError:
            raise UnknownSchemaId(schema_id, "the schemas of this installation") from None
