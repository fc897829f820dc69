"""The keys of now: of a file that may change, and of an issuer that rotates them and is sometimes away."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import structlog

from edge.access.keys import KEYS_BYTES_MAX, Key, keys_of, secret_of
from edge.errors import KeysRefused, KeysUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from pathlib import Path

    from edge.access.options import AccessOptions

log = structlog.get_logger(__name__)
CANDIDATES_MAX: Final = 4
"""Keys that one token is tried with: a token that names none must not cost a signature a key."""
_AWAY: Final = "the issuer's keys cannot be fetched now, and none that is known fits"
_TOLD_MAX: Final = 8
"""Keys that one line of the log names."""


class KeyRing:
    """Finds the keys that a token may be signed with. Keys that are known stay when their source is away."""

    def __init__(self, options: AccessOptions, fetch: Callable[[], Awaitable[bytes]] | None) -> None:
        """Take what fetches the JWKS. The files are read now: raises KeysRefused."""
        self._options = options
        self._fetch = fetch
        self._fetching: asyncio.Task[None] | None = None
        self._watching: list[asyncio.Task[None]] = []
        self._tried_s = float("-inf")
        self._fetched: tuple[Key, ...] = ()
        self._from_files: dict[Path, tuple[Key, ...]] = {}
        self._stamps: dict[Path, tuple[int, int]] = {}
        self.fetched_s = 0.0
        """When the JWKS was had last, by the monotonic clock; 0 = never."""
        self._away = "the JWKS has not been fetched yet" if fetch is not None else ""
        """Why the JWKS is not of now; empty while it is, or if there is none."""
        self._unread: dict[Path, str] = {}
        """Why a file is not of now."""
        self._passed_over: dict[str, list[str]] = {}
        for file, read in self._files():
            self._stamps[file] = _stamp(file)
            self._from_files[file] = self._read(file, read)

    @property
    def problem(self) -> str:
        """Why the keys are not of now; empty while they are."""
        return "; ".join(filter(None, (self._away, *self._unread.values())))

    @property
    def keys(self) -> tuple[Key, ...]:
        """All keys."""
        return (*self._keys_of_files(), *self._fetched)

    def _keys_of_files(self, *, but: Path | None = None) -> list[Key]:
        return [key for file, keys in self._from_files.items() if file != but for key in keys]

    def start(self) -> None:
        """Fetch the JWKS, and look for changes from now on."""
        loop = asyncio.get_running_loop()
        # Two: an issuer that hangs must not keep a file from being looked at.
        self._watching = [loop.create_task(self._watch_files())]
        if self._fetch is not None:
            self._watching.append(loop.create_task(self._watch_issuer()))

    async def stop(self) -> None:
        """Look no more."""
        tasks = [*self._watching, *([self._fetching] if self._fetching is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def find(self, kid: str, algorithm: str) -> list[Key]:
        """Give the keys that a token may be signed with; one that is not known is asked for, but not often.

        Raises:
            KeysUnavailable: it may be a key of the issuer's, who is away.
        """
        found = self._matching(kid, algorithm)
        if not found and self._fetch is not None:
            await self._fetch_soon()
            found = self._matching(kid, algorithm)
        if not found and self._away:
            # A refusal is final to a browser, and this may be the key that was rotated in meanwhile.
            raise KeysUnavailable(_AWAY)
        return found

    async def find_more(self, kid: str, algorithm: str, tried: Collection[Key]) -> list[Key]:
        """Give keys that came meanwhile, for a token that none of those signed which it was ``tried`` with.

        Keys without a ``kid`` fit all tokens, so one that was rotated in is missed only once they failed.
        Raises as ``find``.
        """
        if self._fetch is None or not kid or any(key.kid == kid for key in tried):
            return []
        await self._fetch_soon()
        found = [key for key in self._matching(kid, algorithm) if key not in tried]
        if not found and self._away:
            raise KeysUnavailable(_AWAY)
        return found

    def _matching(self, kid: str, algorithm: str) -> list[Key]:
        named = [
            key for key in self.keys if algorithm in key.algorithms and (not kid or key.kid in ("", kid))
        ]
        named.sort(key=lambda key: key.kid != kid)
        return named[:CANDIDATES_MAX]

    # -- the issuer's -----------------------------------------------------------------------------------

    async def _fetch_soon(self) -> None:
        """Fetch, together with whoever else wants to; not at all if it was tried a moment ago."""
        if self._fetching is None:
            if time.monotonic() - self._tried_s < self._options.keys_retry_ms / 1_000:
                return
            self._fetching = asyncio.get_running_loop().create_task(self._fetch_now())
        # One client that leaves must not end it for the others.
        await asyncio.shield(self._fetching)

    async def _fetch_now(self) -> None:
        assert self._fetch is not None
        self._tried_s = time.monotonic()
        try:
            found = self._public(await self._fetch(), self._options.jwks_url)
            _refuse_untried(found, self._keys_of_files(), self._options.jwks_url)
            self._fetched = found
        except Exception as error:  # noqa: BLE001  # whatever it is: the keys that are known stay
            self._away = f"{type(error).__name__}: {error}"
            log.warning("jwks_not_fetched", url=self._options.jwks_url, cause=self._away)
        else:
            if self._away:
                log.info("jwks_fetched", url=self._options.jwks_url, keys=len(self._fetched))
            self.fetched_s, self._away = time.monotonic(), ""
        finally:
            self._fetching = None

    # -- as time goes by --------------------------------------------------------------------------------

    async def _watch_issuer(self) -> None:
        while True:
            every_ms = self._options.keys_retry_ms if self._away else self._options.keys_refresh_ms
            if time.monotonic() - self._tried_s >= every_ms / 1_000:
                await self._fetch_soon()
            await asyncio.sleep(min(every_ms, self._options.file_look_ms) / 1_000)

    async def _watch_files(self) -> None:
        while True:
            await asyncio.to_thread(self._look_at_files)
            await asyncio.sleep(self._options.file_look_ms / 1_000)

    def _look_at_files(self) -> None:
        for file, read in self._files():
            try:
                stamp = _stamp(file)
                if stamp != self._stamps[file]:
                    self._from_files[file] = self._read(file, read)
                    self._stamps[file] = stamp
                    log.info("keys_read", file=str(file), keys=len(self._from_files[file]))
            except KeysRefused as error:  # half written, or wrong: what was there holds on
                self._not_read(file, str(error), error.remedy)
            except Exception as error:  # noqa: BLE001  # whatever it is: the next look may find a good one
                self._not_read(file, f"{file} cannot be used: {type(error).__name__}", KeysRefused.remedy)
            else:
                self._unread.pop(file, None)

    def _not_read(self, file: Path, cause: str, remedy: str) -> None:
        """Take note; told once, not at each look."""
        if self._unread.get(file) != cause:
            log.warning("keys_not_read", file=str(file), cause=cause, remedy=remedy)
        self._unread[file] = cause

    def _read(self, file: Path, read: Callable[[bytes, str], tuple[Key, ...]]) -> tuple[Key, ...]:
        found = read(_bytes_of(file), str(file))
        _refuse_untried(found, (*self._keys_of_files(but=file), *self._fetched), str(file))
        return found

    def _public(self, data: bytes, where: str) -> tuple[Key, ...]:
        """``keys_of``, and tell what it passed over, once."""
        over: list[str] = []
        found = keys_of(data, where, over.append)
        if over and over != self._passed_over.get(where):
            log.warning(
                "keys_passed_over",
                where=where,
                count=len(over),
                keys=over[:_TOLD_MAX],
                remedy="Tokens that they sign are refused: replace them, or take them out of the set.",
            )
        self._passed_over[where] = over
        return found

    def _files(self) -> list[tuple[Path, Callable[[bytes, str], tuple[Key, ...]]]]:
        options = self._options
        files = ((options.keys_file, self._public), (options.secret_file, secret_of))
        return [(file, read) for file, read in files if file is not None]


def _refuse_untried(found: Collection[Key], beside: Collection[Key], where: str) -> None:
    """Raise KeysRefused if some of these keys would never be tried: those without a ``kid`` all are."""
    for algorithm in sorted({name for key in found if not key.kid for name in key.algorithms}):
        own, others = (
            sum(not key.kid and algorithm in key.algorithms for key in keys) for keys in (found, beside)
        )
        if own + others > CANDIDATES_MAX:
            raise KeysRefused(
                f"{where} holds {own} keys without a `kid` for {algorithm}"
                + (f", beside {others} of other sources" if others else "")
                + f": a token is tried with {CANDIDATES_MAX}, and what the rest signs would be refused",
                remedy="Take out what signs no more (a rotation needs two); or give the keys as a JWKS in "
                "which each has the `kid` that its tokens name.",
            )


def _bytes_of(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(KEYS_BYTES_MAX + 1)
    except OSError as error:
        raise KeysRefused(f"{file} cannot be read: {error.strerror}") from None


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise KeysRefused(f"{file} cannot be read: {error.strerror}") from None
    return status.st_mtime_ns, status.st_ino
