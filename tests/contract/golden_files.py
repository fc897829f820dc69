"""Golden bytes: each registered version of each subject, with one record as it stands on the wire.

After a change of a schema, ``python -m tests.contract.golden_files`` writes its next version here; the ones
that are there are never touched, for records of theirs stand in topics.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from schemas.catalog import subjects
from schemas.codec import Writer
from schemas.shape import shape_of
from tests.contract.golden_records import RECORDS

FOLDER = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Golden:
    """One version of one subject."""

    subject: str
    version: int
    schema: str
    body: bytes
    record: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.subject}.v{self.version}"


def read_all() -> list[Golden]:
    return sorted((_read(path) for path in FOLDER.glob("*.json")), key=lambda g: (g.subject, g.version))


def write_changed() -> list[str]:
    """Write a next version of every subject whose schema differs from its latest; return their names."""
    latest = {golden.subject: golden for golden in read_all()}
    written = []
    for subject, schema in subjects().items():
        last = latest.get(subject)
        if last is not None and shape_of(orjson.loads(last.schema)) == shape_of(orjson.loads(schema)):
            continue
        version = last.version + 1 if last else 1
        body = Writer(1, schema).write(RECORDS[subject])
        golden = Golden(subject, version, schema, body, RECORDS[subject])
        (FOLDER / f"{golden}.json").write_bytes(
            orjson.dumps(
                {
                    "subject": subject,
                    "version": version,
                    "hex": body.hex(),
                    "record": with_hex(golden.record),
                    "schema": orjson.loads(schema),
                },
                option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
            )
        )
        written.append(str(golden))
    return written


def _read(path: Path) -> Golden:
    data = orjson.loads(path.read_bytes())
    golden = Golden(
        subject=data["subject"],
        version=data["version"],
        schema=orjson.dumps(data["schema"]).decode(),
        body=bytes.fromhex(data["hex"]),
        record=without_hex(data["record"]),
    )
    assert path.stem == str(golden)
    return golden


def with_hex(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {name: with_hex(part) for name, part in value.items()}
    return [with_hex(part) for part in value] if isinstance(value, list) else value


def without_hex(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"hex"}:
            return bytes.fromhex(value["hex"])
        return {name: without_hex(part) for name, part in value.items()}
    return [without_hex(part) for part in value] if isinstance(value, list) else value


if __name__ == "__main__":
    for name in write_changed():
        print(name)  # noqa: T201
