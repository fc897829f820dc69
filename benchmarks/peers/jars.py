"""Jars of the peers on Java: fetched as the local stack's are, from a lock of their own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ops.stack.artefacts import Artefact, locked
from ops.stack.download import download, http_client
from ops.stack.repository import repository_base

if TYPE_CHECKING:
    from ops.settings import Settings

LOCK_FILE: Final = Path(__file__).with_name("artefacts.lock")
KAFKA_STREAMS, COMPILER = "kafka-streams", "compiler"


def folder_of(settings: Settings) -> Path:
    """Return where the peers' files are kept; what is made there depends on the lock."""
    digest = hashlib.sha256(LOCK_FILE.read_bytes()).hexdigest()
    return settings.cache_dir.absolute() / "peers" / f"jars-{digest[:8]}"


def jars(settings: Settings, part: str) -> list[Path]:
    """Return the jars of a part in class path order, fetched if need be; raises BrokenDownload."""
    folder = folder_of(settings)
    wanted = [artefact for artefact in locked(LOCK_FILE) if artefact.part == part]
    missing = [artefact for artefact in wanted if not _is_whole(artefact, folder)]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        base_url = repository_base(settings.stack.maven_repository)
        with http_client() as client:
            for artefact in missing:
                download(client, base_url, artefact, folder / artefact.file_name, lambda _bytes: None)
    return [folder / artefact.file_name for artefact in wanted]


def _is_whole(artefact: Artefact, folder: Path) -> bool:
    path = folder / artefact.file_name
    return path.is_file() and path.stat().st_size == artefact.size_bytes
