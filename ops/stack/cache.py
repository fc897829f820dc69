"""The cache folder: one folder a part and version, filled once and then only read."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from ops.stack.artefacts import Artefact, locked
from ops.stack.download import download, http_client
from ops.stack.errors import BrokenDownload
from ops.stack.filelock import FileLock
from ops.stack.repository import repository_base

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import httpx2

    from ops.stack.progress import Progress

PARALLEL_DOWNLOADS = 4
LOCK_PATIENCE_S = 1800.0  # another sluicegate may be downloading the same over a slow line


class _GivenUp(Exception):
    """Another download failed, or somebody pressed Ctrl-C; what arrived is kept and resumed."""


@dataclass(frozen=True, slots=True)
class Cache:
    """Downloads of one user, shared by all their stacks."""

    root: Path

    def folder(self, part: str) -> Path:
        """Folder of a part as it is locked now; another lock gets another folder."""
        return self.root / folder_name(part)

    def jars(self, part: str) -> list[Path]:
        """Jars of a part in class path order."""
        return [self.folder(part) / artefact.file_name for artefact in artefacts_of(part)]

    def missing(self, parts: Iterable[str]) -> list[Artefact]:
        """What has to be downloaded before these parts can start."""
        return [artefact for part in parts for artefact in artefacts_of(part) if not self._has(artefact)]

    def _has(self, artefact: Artefact) -> bool:
        folder = self.folder(artefact.part)
        if artefact.packaging == "tar.gz":
            return unpacked(folder).is_dir()
        path = folder / artefact.file_name
        return path.is_file() and path.stat().st_size == artefact.size_bytes

    def fill(self, parts: Iterable[str], mirror: str | None, progress: Progress) -> None:
        """Download and unpack what is missing; raises BrokenDownload or StackBusy."""
        parts = tuple(parts)
        if not self.missing(parts):
            return
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock", LOCK_PATIENCE_S, progress):
            wanted = self.missing(parts)  # another process may have been here while we waited
            if wanted:
                self._fetch(wanted, repository_base(mirror), progress)

    def _fetch(self, wanted: list[Artefact], base_url: str, progress: Progress) -> None:
        total = sum(artefact.size_bytes for artefact in wanted)
        largest_first = sorted(wanted, key=lambda artefact: -artefact.size_bytes)
        with (
            http_client() as client,
            progress.download("Kafka and the registry", total) as advance,
            ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool,
        ):
            given_up = threading.Event()

            def arrived(count: int) -> None:
                if given_up.is_set():
                    raise _GivenUp
                advance(count)

            jobs = [pool.submit(self._get, client, base_url, item, arrived) for item in largest_first]
            try:
                for job in as_completed(jobs):
                    job.result()
            except BaseException:
                given_up.set()  # Ctrl-C, or one that failed: nobody waits for the rest of a long download
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _get(
        self, client: httpx2.Client, base_url: str, artefact: Artefact, advance: Callable[[int], None]
    ) -> None:
        folder = self.folder(artefact.part)
        target = folder / artefact.file_name
        download(client, base_url, artefact, target, advance)
        if artefact.packaging == "tar.gz":
            unpack(target, unpacked(folder), artefact.coordinates)
            target.unlink()


def artefacts_of(part: str) -> list[Artefact]:
    """Locked artefacts of a part; none if it is all in packages."""
    return [artefact for artefact in locked() if artefact.part == part]


def folder_name(part: str) -> str:
    """Name with a digest of the lock, so that a changed lock never meets the files of the old one."""
    artefacts = artefacts_of(part)
    digest = hashlib.sha256("\n".join(artefact.line() for artefact in artefacts).encode()).hexdigest()
    return f"{part}-{artefacts[0].version}-{digest[:8]}"


def unpacked(folder: Path) -> Path:
    """Folder that a part's archive is unpacked into."""
    return folder / "app"


def unpack(archive: Path, target: Path, name: str) -> None:
    """Unpack beside and rename, so that the target is there only when it is whole."""
    draft = target.with_name(f"{target.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            _extract(tar, draft)
    except (tarfile.TarError, OSError, EOFError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise BrokenDownload(name, f"cannot be unpacked into {target}: {error}") from error
    draft.replace(target)


def _extract(tar: tarfile.TarFile, into: Path) -> None:
    """Extract plain files and folders, none of them outside of ``into``."""
    if hasattr(tarfile, "data_filter"):  # from Python 3.11.4 on; Debian 12 has 3.11.2
        tar.extractall(into, filter="data")
        return
    for member in tar:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
            raise tarfile.ExtractError(f"{member.name} is no plain file beneath its folder")
        tar.extract(member, into)
