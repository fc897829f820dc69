"""The clients: a program in Go, built into the cache folder when it is first needed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from benchmarks.bench import NotHad
from benchmarks.meter import stop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from ops.settings import Settings

SOURCE: Final = Path(__file__).with_name("load")
BUILD_TIMEOUT_S: Final = 300.0
STANDARD_PLACE: Final = "/usr/local/go/bin/go"
LOOK_S: Final = 0.1


class NoGo(NotHad):
    """The clients cannot be built: there is no Go."""

    def __init__(self) -> None:
        super().__init__(
            "the load generator is written in Go and no `go` is on the path; install it "
            "(Debian: apt-get install golang-go; else https://go.dev/dl into /usr/local/go), 1.19 or later"
        )


class NotServed(RuntimeError):
    """Clients were refused, cut off, or did not get what they had to in time; its text says which."""


def program(settings: Settings, source: Path = SOURCE) -> Path:
    """Return the program of a folder, built.

    Raises:
        NoGo: see there.
        CalledProcessError: the compiler's own words are in it.
    """
    sources = [*sorted(source.glob("*.go")), source / "go.mod"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    built = settings.cache_dir.absolute() / "bench-edge" / f"load-{digest[:8]}"
    if built.exists():
        return built
    compiler = shutil.which("go") or (STANDARD_PLACE if Path(STANDARD_PLACE).exists() else None)
    if compiler is None:
        raise NoGo
    built.parent.mkdir(parents=True, exist_ok=True)
    fresh = built.with_suffix(".new")
    subprocess.run(
        [compiler, "build", "-trimpath", "-o", str(fresh), "."],
        cwd=source, timeout=BUILD_TIMEOUT_S, capture_output=True, text=True, check=True,
    )  # fmt: skip
    fresh.rename(built)  # never half built
    return built


@dataclass(frozen=True)
class Snapshot:
    """What all clients were given since the last reset, as ``load/main.go`` has it.

    ``next`` and ``each`` are of those that read.
    """

    seconds: float
    opened: int
    ready: int
    failed: int
    cause: str
    lost: int
    stalled: int
    events: int
    gaps: int
    doubles: int
    declared: int
    missed: int
    """Events that declared gaps stand for."""
    ended: int
    sent_away: int
    refused: int
    other: int
    bytes: int
    reads: int
    mean_ms: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    next_min: int
    next_max: int
    events_each_min: int
    events_each_max: int
    cpu_s: float

    @property
    def contiguous(self) -> bool:
        """Whether nothing was missing, given twice, or declared lost."""
        return not (self.gaps or self.doubles or self.declared or self.failed or self.refused)


class Clients:
    """So many connections in a process of their own; leave it to close them."""

    def __init__(  # the flags of a program
        self,
        settings: Settings,
        port: int,
        path: str,
        connections: int,
        *,
        streams: int = 1,
        per_second: int = 0,
        pending: int = 200,
        receive_buffer: int = 0,
        first_seq: int = -1,
        places: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.connections = connections
        command = [
            str(program(settings)), "-port", str(port), "-path", path, "-connections", str(connections),
            "-streams", str(streams), "-per-second", str(per_second), "-pending", str(pending),
            "-receive-buffer", str(receive_buffer), "-from", str(first_seq),
        ]  # fmt: skip
        if places:
            resume = settings.data_dir / "places.txt"
            resume.write_text("\n".join(f"{cursor},{seq}" for cursor, seq in places), "ascii")
            command += ["-resume", str(resume)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        stop(self._process)

    def snapshot(self) -> Snapshot:
        """Return what came since the last reset."""
        return self._ask("snapshot")

    def stall(self, count: int) -> Snapshot:
        """Have the first so many read no more; 0 has all read on."""
        return self._ask(f"stall {count}")

    def reset(self) -> Snapshot:
        """Return what came since the last reset, and count from zero."""
        return self._ask("reset")

    def ready(self, timeout_s: float) -> Snapshot:
        """Wait until all have their answer's head.

        Raises:
            NotServed: some were refused, or have none in time.
        """

        def answered(found: Snapshot) -> bool:
            if found.failed:
                raise NotServed(f"{found.failed} of {self.connections} clients failed: {found.cause}")
            return found.ready == self.connections

        found = self.until(answered, timeout_s)
        if not answered(found):
            raise NotServed(f"{found.ready} of {self.connections} clients were answered in {timeout_s:.0f} s")
        return found

    def until(self, enough: Callable[[Snapshot], bool], timeout_s: float) -> Snapshot:
        """Look until it is enough, or until the time is over; returns the last look."""
        deadline = time.monotonic() + timeout_s
        while not enough(found := self.snapshot()) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        return found

    def _ask(self, line: str) -> Snapshot:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or b"{}")
        if not answer:
            raise NotServed(f"the load generator ended with exit code {self._process.wait()}")
        return Snapshot(**answer)
