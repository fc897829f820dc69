"""The Makefile and what it starts with, on machines that lack something."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from jgo.constants import MAVEN_CENTRAL_URL
from pip._internal.models.index import PyPI

from ops import bootstrap
from ops.settings import StackSettings
from ops.stack import preflight
from tests.conftest import need_program, unavailable

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


@pytest.fixture
def clone(tmp_path) -> Path:
    """What `make` needs of a clone, in a path with a blank, and nothing made yet."""
    folder = tmp_path / "a clone"
    (folder / "ops").mkdir(parents=True)
    for name in (
        "Makefile",
        "requirements.lock",
        "requirements-local-model.lock",
        "pyproject.toml",
        "ops/bootstrap.py",
    ):
        shutil.copy(ROOT / name, folder / name)
    return folder


def make(folder: Path, *words: str, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path, "HOME": str(folder / "home")}
    return subprocess.run(
        ["make", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def program(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / "python3"
    made.write_text(f"#!/bin/sh\n{text}\n")
    made.chmod(0o755)
    return made


def test_make_alone_lists_every_target_that_is_for_people(clone):
    listed = set(re.findall(r"^  make ([a-z-]+)", make(clone).stdout, re.MULTILINE))

    assert listed == set(re.findall(r"^\.PHONY: ([a-z-]+)", MAKEFILE, re.MULTILINE))
    assert {"demo", "test", "lint", "bench", "up", "down", "status", "docs", "clean", "compose"} <= listed


def test_a_python_that_is_too_old_is_named_with_what_to_install(clone):
    old = program(clone / "old", "exit 1")

    told = make(clone, f"PYTHON={old}", "demo")

    assert told.returncode == 2
    assert f"no Python 3.11 or later was found ({old} is none)" in told.stderr
    assert "apt-get install python3 python3-venv" in told.stderr
    assert not (clone / ".venv").exists()


def test_a_machine_without_any_python_is_told_what_to_install(clone):
    tools = clone / "tools"
    tools.mkdir()
    for name in ("sh", "sed", "printf", "touch", "make"):
        (tools / name).symlink_to(shutil.which(name))

    told = make(clone, "test", path=str(tools))

    assert told.returncode == 2
    assert "no Python 3.11 or later was found" in told.stderr


def test_a_python_in_the_path_that_is_new_enough_is_found(clone):
    program(clone / "old", "exit 1")
    newer = clone / "old" / "python3.12"
    newer.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\necho "$0" > made-by\nmkdir -p .venv/bin\n')
    newer.chmod(0o755)

    told = make(clone, "environment", path=f"{clone / 'old'}:/usr/bin:/bin")

    assert told.returncode == 0, told.stderr
    assert (clone / "made-by").read_text().strip().endswith("python3.12")


def test_a_python_without_venv_is_named_with_the_package_to_install(clone, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ensurepip", None)

    with pytest.raises(SystemExit) as caught:
        bootstrap.check_machine()

    told = capsys.readouterr().err
    assert caught.value.code == 2
    assert "has no ensurepip" in told
    assert f"python{sys.version_info.major}.{sys.version_info.minor}-venv" in told


def test_a_disk_without_room_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bootstrap, "DISK_MB", 10**12)
    monkeypatch.setattr(bootstrap, "ENVIRONMENT", tmp_path / "none")

    with pytest.raises(SystemExit):
        bootstrap.check_machine()

    assert "MB of disk are free" in capsys.readouterr().err


def test_little_memory_is_told_before_anything_is_fetched(monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "free_memory_mb", lambda: 700)

    bootstrap.check_machine()

    told = capsys.readouterr().err
    assert f"700 MB of memory are free and the local stack takes {bootstrap.MEMORY_MB} MB" in told
    assert "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS" in told


def test_the_memory_that_is_told_of_is_what_the_stack_asks_for():
    stack = StackSettings()
    heaps_mb = stack.kafka_heap_mb + stack.registry_heap_mb
    assert heaps_mb + 2 * preflight.JAVA_OVERHEAD_MB + preflight.POSTGRES_MB == bootstrap.MEMORY_MB
    assert 0 < bootstrap.free_memory_mb() < 10**9


@pytest.mark.parametrize(("version", "tried"), [((3, 13), True), ((3, 14), False)])
def test_a_python_that_nobody_tried_is_told(monkeypatch, capsys, version, tried):
    monkeypatch.setattr(bootstrap, "HERE", version)

    bootstrap.check_machine()

    assert ("Python 3.14 was not tried" in capsys.readouterr().err) is not tried


def test_ci_and_the_tests_know_the_same_browsers():
    assert "tests/e2e/browsers.txt" in (ROOT / ".ci" / "run").read_text()
    assert (ROOT / "tests" / "e2e" / "browsers.txt").read_text().split()[0] == "chromium"


def test_an_environment_whose_python_is_gone_is_made_anew(tmp_path):
    broken = tmp_path / "bin" / "python"
    assert not bootstrap.works(broken)

    broken.parent.mkdir()
    broken.symlink_to(tmp_path / "uninstalled")
    assert not bootstrap.works(broken)
    assert bootstrap.works(Path(sys.executable))


def test_no_file_of_the_project_names_the_host_of_a_package_registry():
    """A mirror is set outside of the project; a host in a file would go around it."""
    hosts = [urlsplit(MAVEN_CENTRAL_URL).hostname, PyPI.netloc, PyPI.file_storage_domain]
    assert all(hosts)
    need_program("git")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        unavailable("the list of files", listed.stderr.strip())

    naming = [
        name
        for name in filter(None, listed.stdout.split("\0"))
        if (path := ROOT / name).is_file() and any(host.encode() in path.read_bytes() for host in hosts)
    ]
    assert naming == []


def test_what_ci_runs_can_be_run_and_says_so():
    script = ROOT / ".ci" / "run"

    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert re.search(r"^make lint$", script.read_text(), re.MULTILINE)
    assert re.search(r"^make test$", script.read_text(), re.MULTILINE)


PIP = r"""
for n in $(seq 60); do echo "Collecting one==$n"; echo "  Downloading one-$n.whl"; done
echo "WARNING: Retrying (Retry(total=4)) after connection broken"
echo "Installing collected packages: one, two"
"""


def test_of_what_pip_writes_only_how_far_it_is_is_told(tmp_path, capfd):
    lock = tmp_path / "lock.txt"
    lock.write_text("".join(f"one==1.{n} \\\n    --hash=sha256:00\n" for n in range(60)))

    bootstrap.install_locked(program(tmp_path / "well", PIP), lock)

    assert capfd.readouterr().out.splitlines() == [
        "25 of 60 packages",
        "50 of 60 packages",
        "WARNING: Retrying (Retry(total=4)) after connection broken",
        "installing them: this takes a minute, in which nothing is told",
    ]


def test_where_pip_fails_its_last_words_are_shown(tmp_path, capfd):
    lock = tmp_path / "lock.txt"
    lock.write_text("one==1 \\\n    --hash=sha256:00\n")
    failing = program(tmp_path / "ill", f"{PIP}\necho 'ERROR: No matching distribution' >&2\nexit 1")

    with pytest.raises(SystemExit):
        bootstrap.install_locked(failing, lock)

    told = capfd.readouterr()
    assert told.out.endswith("ERROR: No matching distribution\n")
    assert "Downloading one-60.whl" in told.out
    assert "Downloading one-1.whl" not in told.out
    assert "this step failed (exit code 1)" in told.err
