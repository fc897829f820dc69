"""The record of what runs: `stack.json` in the data folder, readable by its owner alone."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import orjson

from ops.stack.errors import BadState
from ops.stack.process import ProcessRecord

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

VERSION = 1
FILE = "stack.json"
PORTS_FILE = "ports.json"


@dataclass(frozen=True, slots=True)
class RunningPart:
    """One part that this stack started."""

    name: str
    process: ProcessRecord
    port: int
    address: str
    log: str


def read_state(data_dir: Path) -> dict[str, RunningPart]:
    """Read what was started, by part; empty if nothing was. Raises BadState."""
    path = data_dir / FILE
    try:
        document = orjson.loads(path.read_bytes())
        if document["version"] != VERSION:
            raise BadState(path, f"is of version {document['version']}; this sluicegate knows {VERSION}")
        return {
            name: RunningPart(
                name=name,
                process=ProcessRecord(int(part["pid"]), float(part["started"])),
                port=int(part["port"]),
                address=str(part["address"]),
                log=str(part["log"]),
            )
            for name, part in document["parts"].items()
        }
    except FileNotFoundError:
        return {}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadState(path, f"is not a record of a stack ({error})") from error


def write_state(data_dir: Path, parts: Mapping[str, RunningPart]) -> None:
    """Write what runs; with nothing left the file goes away."""
    path = data_dir / FILE
    if not parts:
        path.unlink(missing_ok=True)
        return
    document = {
        "version": VERSION,
        "parts": {
            part.name: {**asdict(part.process), "port": part.port, "address": part.address, "log": part.log}
            for part in parts.values()
        },
    }
    _write_private(path, document)


def read_ports(data_dir: Path) -> dict[str, int]:
    """Ports of the last time: a stack that restarts keeps its addresses where they are still free."""
    try:
        document = orjson.loads((data_dir / PORTS_FILE).read_bytes())
        return {str(name): int(port) for name, port in document.items()}
    except (OSError, orjson.JSONDecodeError, AttributeError, TypeError, ValueError):
        return {}  # only a preference: without it, free ports are taken


def write_ports(data_dir: Path, ports: Mapping[str, int]) -> None:
    """Keep the ports for the next start."""
    _write_private(data_dir / PORTS_FILE, dict(ports))


def _write_private(path: Path, document: Mapping[str, Any]) -> None:
    """Write whole or not at all, for the owner only: the addresses hold a password."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    draft.replace(path)
