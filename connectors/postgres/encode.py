"""Rows as the one JSON array that the upsert takes, made fit for PostgreSQL's text on the way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from connectors.postgres.errors import SinkRefused

if TYPE_CHECKING:
    from connectors.postgres.claim import Refusal
    from connectors.postgres.tables import ColumnType, Table

Row = Mapping[str, object]

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_BIGINT_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows ready to store: one a key, each with its place in the batch as it was given."""

    rows: tuple[tuple[int, Row], ...]
    characters_replaced: int

    def json(self) -> str:
        """The rows as a JSON array."""
        return orjson.dumps([row for _, row in self.rows]).decode()

    def parts(self, rows_max: int) -> Iterator[Rows]:
        """The same rows in parts of at most `rows_max`."""
        for start in range(0, len(self.rows), rows_max):
            yield Rows(self.rows[start : start + rows_max], 0)


def prepare(table: Table, given: Sequence[Row]) -> Rows:
    """Check, repair and reduce a batch; raise SinkRefused, naming the row, for one that cannot be encoded.

    PostgreSQL's text holds neither NUL nor lone surrogates: each becomes U+FFFD, and is counted. Of several
    rows of one key the one stays that would stay if they were stored one after the other: the highest
    revision, the first among equals; what it lacks of the columns ``apart`` is that of the one before it.
    Rows are sorted by key, so that two sinks on one table never deadlock.
    """
    for at, row in enumerate(given):
        if not table.columns.keys() <= row.keys():
            missing = next(name for name in table.columns if name not in row)
            raise SinkRefused(table.name, missing, at, key_of(table, row), "the field is missing")
    kept = _newest(table, enumerate({name: row[name] for name in table.columns} for row in given))
    if not _is_hostile(kept):
        return Rows(tuple(kept), 0)
    replaced = 0
    repaired: list[tuple[int, Row]] = []
    for at, row in kept:
        clean, count = _repair(row)
        assert isinstance(clean, dict)
        _check_encodable(table, at, clean)
        replaced += count
        repaired.append((at, clean))
    return Rows(tuple(_newest(table, repaired)), replaced)  # two keys may have become one


def refusals_json(refused: Sequence[Refusal]) -> str:
    """Refusals as the JSON array that their statement takes; their text is repaired as a row's is."""
    rows = [
        {"record_offset": each.offset, "problem": _UNSTORABLE.sub("\ufffd", each.problem)} for each in refused
    ]
    return orjson.dumps(rows).decode()


def misfit(table: Table, row: Row) -> str:
    """Name of the first column whose value is not of its type, or an empty string.

    Only asked once the database has refused a row: it does not say which column it was.
    """
    return next((name for name, kind in table.columns.items() if not _fits(kind, row.get(name))), "")


def key_of(table: Table, row: Row) -> str:
    """The row's key for messages, bounded."""
    return ", ".join(f"{name}={str(row.get(name))[:80]!r}" for name in table.key)


def _newest(table: Table, rows: Iterable[tuple[int, Row]]) -> list[tuple[int, Row]]:
    newest: dict[tuple[object, ...], tuple[int, int, Row]] = {}
    for at, row in rows:
        for name in (*table.key, table.revision):
            if not _fits(table.columns[name], row[name]):
                raise SinkRefused(
                    table.name, name, at, key_of(table, row), f"{type(row[name]).__name__} does not fit"
                )
        key, revision = tuple(row[name] for name in table.key), row[table.revision]
        assert isinstance(revision, int)
        held = newest.get(key)
        if held is None or held[0] < revision:
            given = {name: held[2][name] for name in table.apart if row[name] is None} if held else {}
            newest[key] = (revision, at, {**row, **given} if given else row)
    # A lone surrogate sorts as any other character here; the rows are sorted again once it is replaced.
    return [(at, row) for _, (_, at, row) in sorted(newest.items(), key=lambda item: repr(item[0]))]


def _is_hostile(rows: list[tuple[int, Row]]) -> bool:
    try:
        text = orjson.dumps([row for _, row in rows])
    except TypeError:
        return True
    return b"\\u0000" in text  # also hits a harmless backslash before u0000: only slower then


def _repair(value: object) -> tuple[object, int]:
    if isinstance(value, str):
        return _UNSTORABLE.subn("\ufffd", value)
    if isinstance(value, Mapping):
        pairs = [(_repair(name), _repair(item)) for name, item in value.items()]
        return {str(name[0]): item[0] for name, item in pairs}, sum(n[1] + i[1] for n, i in pairs)
    if isinstance(value, (list, tuple)):
        items = [_repair(item) for item in value]
        return [item for item, _ in items], sum(count for _, count in items)
    return value, 0


def _check_encodable(table: Table, at: int, row: Row) -> None:
    try:
        orjson.dumps(row)
    except TypeError as error:
        column = misfit(table, row)
        raise SinkRefused(table.name, column, at, key_of(table, row), str(error)) from None


def _fits(kind: ColumnType, value: object) -> bool:
    if value is None:
        return kind.endswith("?")
    match kind:
        case "bigint" | "bigint?":
            return type(value) is int and -_BIGINT_MAX - 1 <= value <= _BIGINT_MAX
        case "boolean" | "boolean?":
            return isinstance(value, bool)
        case "text" | "text?":
            return isinstance(value, str)
        case "jsonb":
            return isinstance(value, Mapping)
        case "text[]":
            return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
