"""Start what is not running and wait until it answers.

1. What already runs and answers is kept.
2. What this machine lacks is named, and the size of the download, before anything is fetched.
3. What is missing in the cache is fetched.
4. Under the stack's lock: records of processes that are gone are healed, and ports are chosen.
5. All parts are started at once; each is recorded before it is waited for, so that `down` finds it.
6. Each is asked, as a client would, until it answers; if one fails, those started here are stopped again.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from ops.stack import preflight
from ops.stack.addresses import Addresses
from ops.stack.cache import Cache
from ops.stack.down import stop_part
from ops.stack.errors import PartFailed
from ops.stack.filelock import FileLock
from ops.stack.logs import last_lines, rotate
from ops.stack.parts import KAFKA, LOCAL_PARTS, MODEL, POSTGRES, REGISTRY
from ops.stack.ports import is_free
from ops.stack.probe import answers
from ops.stack.process import start_detached
from ops.stack.progress import Progress, Silent
from ops.stack.services import make_services
from ops.stack.state import RunningPart, read_state, write_state

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ops.settings import Settings
    from ops.stack.launch import Service

LOCK_PATIENCE_S = 300.0
ASK_TIMEOUT_S = 2.0
POLL_S = 0.05
# A busy machine is not a broken part: one that runs is only given up after this long without an answer.
SILENCE_S_MAX = 15.0
# A free port can go to another program between its choice and the moment that a part listens on it.
STARTS_MAX = 3


def ensure_up(settings: Settings, progress: Progress | None = None, *, model: bool = False) -> Addresses:
    """Make sure that Kafka, registry and PostgreSQL answer, and give their addresses.

    Parts whose address is in the settings are taken from there and not started. With ``model``, so does the
    local model. Raises a StackError.
    """
    progress = progress or Silent()
    parts = (*parts_to_run(settings), *((MODEL.name,) if model else ()))
    if not parts:
        return addresses_from(settings, {})
    data_dir = settings.data_dir.absolute()
    running = _that_answer(read_state(data_dir), parts)
    if len(running) < len(parts):
        absent = tuple(part for part in parts if part not in running)
        preflight.check(settings, absent, Cache(settings.cache_dir.absolute()).missing(absent))
        running = _bring_up(settings, data_dir, parts, progress)
    return addresses_from(settings, running)


def parts_to_run(settings: Settings) -> tuple[str, ...]:
    """Parts that the settings give no address for."""
    given = {
        KAFKA.name: settings.kafka.bootstrap_servers,
        REGISTRY.name: settings.registry.url,
        POSTGRES.name: settings.postgres.dsn,
    }
    return tuple(part.name for part in LOCAL_PARTS if not given[part.name])


def addresses_from(settings: Settings, running: Mapping[str, RunningPart]) -> Addresses:
    """Addresses of the settings, and of what runs where they have none."""
    dsn = settings.postgres.dsn
    return Addresses(
        kafka=settings.kafka.bootstrap_servers or running[KAFKA.name].address,
        registry_url=(settings.registry.url or running[REGISTRY.name].address).rstrip("/"),
        postgres_dsn=dsn.get_secret_value() if dsn else running[POSTGRES.name].address,
    )


def addresses_of(settings: Settings) -> Addresses | None:
    """Addresses of a stack that was started, without starting anything; None if a part of it does not run."""
    parts = parts_to_run(settings)
    state = read_state(settings.data_dir.absolute())
    running = {name: part for name, part in state.items() if part.process.runs}
    if any(part not in running for part in parts):
        return None
    return addresses_from(settings, running)


def _that_answer(state: Mapping[str, RunningPart], parts: tuple[str, ...]) -> dict[str, RunningPart]:
    """Recorded parts that run and answer now."""
    return {
        name: part
        for name, part in state.items()
        if name in parts and part.process.runs and answers(name, part.address, ASK_TIMEOUT_S)
    }


def _bring_up(
    settings: Settings, data_dir: Path, parts: tuple[str, ...], progress: Progress
) -> dict[str, RunningPart]:
    cache = Cache(settings.cache_dir.absolute())
    if wanted := cache.missing(parts):
        size_mb = sum(artefact.size_bytes for artefact in wanted) / 1e6
        progress.note(f"the local stack needs a download of {size_mb:.0f} MB, kept in {cache.root}")
        cache.fill(parts, settings.stack.maven_repository, progress)
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / "stack.lock", LOCK_PATIENCE_S, progress):
        for attempt in range(STARTS_MAX):
            state = _healed(data_dir, parts, progress)
            absent = tuple(part for part in parts if part not in state)
            services = make_services(settings, data_dir, cache, absent)
            try:
                return _Start(settings, data_dir, state, progress).run(services)
            except PartFailed:
                lost = [service.part.title for service in services if not is_free(service.port)]
                if not lost or attempt == STARTS_MAX - 1:
                    raise
                progress.note(f"the port of {', '.join(lost)} went to another program; taking others")
    raise AssertionError("the loop returns or raises")


def _healed(data_dir: Path, parts: tuple[str, ...], progress: Progress) -> dict[str, RunningPart]:
    """Recorded parts that can stay; a process that is gone is forgotten, one that is silent is stopped."""
    state = read_state(data_dir)
    for name, part in list(state.items()):
        if name in parts and not part.process.runs:
            progress.note(f"{name} (process {part.process.pid}) is gone; it is started anew")
        elif name in parts and not _answers_within(SILENCE_S_MAX, part):
            progress.note(f"{name} (process {part.process.pid}) does not answer; it is started anew")
            stop_part(part, patience_s=SILENCE_S_MAX)
        else:
            continue
        del state[name]
    write_state(data_dir, state)
    return state


def _answers_within(bound_s: float, part: RunningPart) -> bool:
    deadline = time.monotonic() + bound_s
    while not answers(part.name, part.address, ASK_TIMEOUT_S):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


class _GivenUp(Exception):
    """A part was well so far, but another one failed, and that one's error is told."""


def _raise_cause(jobs: list[Future[None]]) -> None:
    """Raise the failure that made the others give up, if there is one."""
    failures = [failure for job in jobs if (failure := job.exception())]
    for failure in sorted(failures, key=lambda failure: isinstance(failure, _GivenUp)):
        raise failure


class _Start:
    """One start of several services at once, undone as a whole if one fails."""

    def __init__(
        self, settings: Settings, data_dir: Path, state: dict[str, RunningPart], progress: Progress
    ) -> None:
        self._data_dir, self._state, self._progress = data_dir, state, progress
        self._patience_s = settings.stack.start_timeout_ms / 1000
        self._started: list[RunningPart] = []
        self._guard = threading.Lock()
        self._give_up = threading.Event()

    def run(self, services: list[Service]) -> dict[str, RunningPart]:
        """Start and wait; raises PartFailed after what was started here was stopped again."""
        if not services:
            return self._state
        try:
            with ThreadPoolExecutor(len(services)) as pool:
                jobs = [pool.submit(self._one, service) for service in services]
                try:
                    wait(jobs, return_when=FIRST_EXCEPTION)
                finally:
                    self._give_up.set()  # those that still wait for an answer stop waiting
            _raise_cause(jobs)
        except BaseException:  # Ctrl-C too: nothing half started stays
            for part in self._started:
                stop_part(part)
                del self._state[part.name]
            write_state(self._data_dir, self._state)
            raise
        return self._state

    def _one(self, service: Service) -> None:
        title, log = service.part.title, self._data_dir / "logs" / f"{service.part.name}.log"
        began = time.monotonic()
        service.prepare()
        if self._give_up.is_set():
            raise _GivenUp
        rotate(log)
        launch = service.launch()
        try:
            process = start_detached(launch.command, log=log, cwd=launch.cwd, env=launch.env)
        except OSError as error:
            raise PartFailed(title, f"could not be started ({error})", log, ()) from error
        part = RunningPart(service.part.name, process, service.port, service.address, str(log))
        with self._guard:
            self._started.append(part)
            self._state[part.name] = part
            write_state(self._data_dir, self._state)
        while not answers(part.name, part.address, ASK_TIMEOUT_S):
            if not process.runs:
                raise PartFailed(title, "ended while it started", log, last_lines(log))
            if time.monotonic() - began > self._patience_s:
                problem = f"did not answer within {self._patience_s:.0f} s"
                raise PartFailed(title, problem, log, last_lines(log))
            if self._give_up.wait(POLL_S):
                raise _GivenUp
        took_s = time.monotonic() - began
        self._progress.note(f"{title} {service.part.version} answers at port {service.port} ({took_s:.1f} s)")
