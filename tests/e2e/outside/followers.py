"""Outside clients at work, each in a process or a page of its own, and what each has seen so far."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from tests.conftest import need_program, unavailable

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

HERE = Path(__file__).parent
Said = dict[str, Any]
"""An event, flat, as the client gave it; or ``{"state": …}``: ``again`` (it comes back by itself),
``returned`` or ``raised`` (it ended, and the program called it again), ``over`` (it has stopped for good,
``by`` the program if that had to see to it)."""


class Follower(Protocol):
    """A client that follows one stream."""

    def said(self) -> list[Said]:
        """All that it has seen so far."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class InProcess:
    """A client of npm or PyPI."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(command, cwd=HERE, stdout=out, stderr=subprocess.STDOUT)

    def said(self) -> list[Said]:
        lines = self._log.read_bytes().split(b"\n")[:-1]  # the last may be half of one
        assert all(line.startswith(b"{") for line in lines), self._log.read_text()
        return [orjson.loads(line) for line in lines]

    def stop_reading(self) -> None:
        """It does nothing at all until it is told to go on."""
        self._process.send_signal(signal.SIGSTOP)

    def read_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)


class InPage:
    """A client of the browser, in a page of the edge's own address."""

    def __init__(self, browser: Browser, client: str, edge_url: str, stream_url: str) -> None:
        self._page: Page = browser.new_page()
        self._page.route("**/of-others/**", _serve)
        self._page.goto(f"{edge_url}/of-others/page.html")
        self._page.wait_for_function("!!window.start")
        self._page.evaluate("([client, url]) => window.start(client, url)", [client, stream_url])

    def said(self) -> list[Said]:
        seen: list[Said] = self._page.evaluate("window.seen")
        return seen

    def close(self) -> None:
        self._page.close()


def npm_follower(client: str, url: str, log: Path) -> InProcess:
    need_modules()
    return InProcess(["node", "npm.mjs", client, url], log)


def pypi_follower(client: str, url: str, grpc_address: str, log: Path) -> InProcess:
    return InProcess([sys.executable, "pypi.py", client, url, grpc_address], log)


def need_modules() -> None:
    """Install npm's clients as the lock has them, unless they are there."""
    need_program("node")
    installed = HERE / "node_modules" / ".as-locked.json"
    lock = HERE / "package-lock.json"
    if installed.exists() and installed.read_bytes() == lock.read_bytes():
        return
    need_program("npm")
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    if done.returncode != 0:
        unavailable("npm's clients", done.stderr[-1_000:])
    shutil.copyfile(lock, installed)


def _serve(route: Route) -> None:
    """Give the page and its modules; fetch-event-source names its own without their ending."""
    path = HERE / route.request.url.partition("/of-others/")[2]
    if path.name == "page.html":
        route.fulfill(body='<script type="module" src="page.mjs"></script>', content_type="text/html")
        return
    file = path if path.suffix in {".mjs", ".js"} else path.with_name(f"{path.name}.js")
    route.fulfill(path=file, content_type="text/javascript")
