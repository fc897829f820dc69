"""Bring one locked artefact onto this disk: resumed, retried, checked, and there only when it is whole.

1. What an earlier try left in the ``.part`` file is kept and resumed with a Range request.
2. A transfer that breaks off is tried again after a pause that doubles.
3. The whole file is hashed; a mismatch throws it away and gets it once more from its start.
4. Only a file of the locked size and SHA-256 takes its final name, in one rename.
"""

from __future__ import annotations

import hashlib
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx2

from ops.stack.errors import BrokenDownload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ops.stack.artefacts import Artefact

TRIES_MAX = 5
PAUSE_S = 0.5  # doubles: 0.5, 1, 2, 4 s, so that a mirror's short failure is waited out and a long one told
CONNECT_TIMEOUT_S = 15.0
READ_TIMEOUT_S = 30.0  # without a byte; the whole takes as long as the line needs


class _Interrupted(Exception):
    """A transfer that is worth another try."""


def http_client() -> httpx2.Client:
    """Client for downloads; proxies and certificates are taken as the user's machine has them."""
    timeout = httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    return httpx2.Client(timeout=timeout, follow_redirects=True, headers={"Accept-Encoding": "identity"})


def download(
    client: httpx2.Client,
    base_url: str,
    artefact: Artefact,
    target: Path,
    advance: Callable[[int], None],
    *,
    pause_s: float = PAUSE_S,
) -> None:
    """Download ``artefact`` to ``target``; raises BrokenDownload. ``advance`` is told of bytes (+ and -)."""
    url = f"{base_url}/{artefact.repository_path}"
    partial = target.with_name(f"{target.name}.{artefact.sha256[:12]}.part")
    partial.parent.mkdir(parents=True, exist_ok=True)
    advance(_size(partial))
    mismatches = 0
    problem = ""
    for attempt in range(TRIES_MAX):
        if attempt:
            time.sleep(pause_s * 2 ** (attempt - 1))
        try:
            _transfer(client, url, artefact, partial, advance)
        except _Interrupted as error:
            problem = str(error)
            continue
        found = _sha256(partial)
        if found == artefact.sha256:
            partial.replace(target)
            return
        advance(-_size(partial))
        partial.unlink()
        problem = f"{url} gave a file with SHA-256 {found}, not the locked {artefact.sha256}"
        mismatches += 1
        if mismatches > 1:  # the first may come from a part of an older try
            break
    raise BrokenDownload(artefact.coordinates, problem)


def _transfer(
    client: httpx2.Client, url: str, artefact: Artefact, partial: Path, advance: Callable[[int], None]
) -> None:
    """Get what is missing of the file; raises _Interrupted, or BrokenDownload where no retry can help."""
    have = _size(partial)
    if have == artefact.size_bytes:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with client.stream("GET", url, headers=headers) as response:
            have = _resume_point(response, url, artefact, partial, have, advance)
            with partial.open("r+b" if have else "wb") as file:
                file.seek(have)
                for chunk in response.iter_raw():
                    have += len(chunk)
                    if have > artefact.size_bytes:
                        break
                    file.write(chunk)
                    advance(len(chunk))
    except httpx2.TransportError as error:
        raise _Interrupted(f"{url}: {type(error).__name__}: {error}") from error
    if have != artefact.size_bytes:
        if have > artefact.size_bytes:
            advance(-_size(partial))
            partial.unlink()
        raise _Interrupted(f"{url}: {have} bytes arrived where {artefact.size_bytes} are locked")


def _resume_point(
    response: httpx2.Response,
    url: str,
    artefact: Artefact,
    partial: Path,
    have: int,
    advance: Callable[[int], None],
) -> int:
    """Offset that the answer's first byte belongs to; throws a part away that the server cannot continue."""
    status = response.status_code
    if status == HTTPStatus.PARTIAL_CONTENT and response.headers.get("Content-Range", "").startswith(
        f"bytes {have}-"
    ):
        return have
    if have:
        advance(-have)
        partial.unlink()
    if status == HTTPStatus.OK:
        return 0
    passing = status in {HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}
    if passing or status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS} or status >= 500:
        raise _Interrupted(f"{url}: HTTP {status}")
    raise BrokenDownload(artefact.coordinates, f"{url}: HTTP {status} {response.reason_phrase}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
