"""What of the stack runs, where, and whether it answers."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.stack.parts import LOCAL_PARTS, MODEL
from ops.stack.probe import answers
from ops.stack.state import read_state
from ops.stack.up import parts_to_run

if TYPE_CHECKING:
    from ops.settings import Settings
    from ops.stack.parts import Part
    from ops.stack.state import RunningPart

ASK_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One part as it is now."""

    name: str
    title: str
    version: str
    state: str
    """``answers``, ``silent`` (it runs, but does not answer), ``gone`` (started, but ended), ``stopped``,
    or ``configured`` (the settings name an address; it is not ours to look after)."""
    address: str = ""
    """Without its password."""
    pid: int = 0
    uptime_s: int = 0
    log: str = ""

    @property
    def well(self) -> bool:
        """Whether nothing is to be done about it."""
        return self.state in {"answers", "configured"}


def status(settings: Settings) -> list[PartStatus]:
    """Tell of every part of the local stack; raises BadState."""
    ours = parts_to_run(settings)
    state = read_state(settings.data_dir.absolute())
    told = [
        _of(part, state.get(part.name)) if part.name in ours else _configured(part, settings)
        for part in LOCAL_PARTS
    ]
    return [*told, _of(MODEL, state[MODEL.name])] if MODEL.name in state else told


def _of(part: Part, running: RunningPart | None) -> PartStatus:
    if running is None:
        return PartStatus(part.name, part.title, part.version, "stopped")
    if not running.process.runs:
        return PartStatus(part.name, part.title, part.version, "gone", log=running.log)
    word = "answers" if answers(part.name, running.address, ASK_TIMEOUT_S) else "silent"
    return PartStatus(
        name=part.name,
        title=part.title,
        version=part.version,
        state=word,
        address=without_password(running.address),
        pid=running.process.pid,
        uptime_s=max(0, round(time.time() - running.process.started)),
        log=running.log,
    )


def _configured(part: Part, settings: Settings) -> PartStatus:
    given = {
        "kafka": settings.kafka.bootstrap_servers,
        "registry": settings.registry.url,
        "postgres": settings.postgres.dsn.get_secret_value() if settings.postgres.dsn else "",
    }
    return PartStatus(part.name, part.title, "", "configured", without_password(given[part.name] or ""))


def without_password(address: str) -> str:
    """Address that may be shown: the password of a URL, or of a key=value string, taken out."""
    address = re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:…@", address)
    return re.sub(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", r"\1…", address)
