"""What a reader relies on: who owns the top-level names, who reads the environment, how long a file is."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.conftest import need_program, unavailable

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "connectors", "state", "pipelines", "edge", "ops")
LINES_MAX = 500


def tracked(*patterns: str) -> list[Path]:
    need_program("git")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        unavailable("the list of files", listed.stderr.strip())
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def sources() -> dict[Path, str]:
    files = tracked(*(f"{package}/**/*.py" for package in PACKAGES), *(f"{p}/*.py" for p in PACKAGES))
    assert len(files) > 100, "the pattern finds the code"
    ours = [path for path in files if not path.stem.endswith(("_pb2", "_pb2_grpc"))]  # else `make proto`'s
    return {path.relative_to(ROOT): path.read_text() for path in ours}


def test_no_other_distribution_owns_one_of_our_names():
    for distribution in distributions():
        if distribution.metadata["Name"] == "sluicegate":
            continue
        tops = {file.parts[0] for file in distribution.files or () if file.suffix == ".py"}
        assert not tops.intersection(PACKAGES), distribution.metadata["Name"]


def test_only_the_settings_read_the_environment(sources):
    # The parents of processes hand their environment on; that is no reading of settings.
    hands_on = re.compile(
        r"os\.environ \||\*\*os\.environ|dict\(os\.environ\)|os\.environ\.copy\(\)|env=os\.environ"
    )
    for path, text in sources.items():
        if path == Path("ops/settings.py"):
            continue
        for line in text.splitlines():
            assert "getenv" not in line, path
            assert "os.environ" not in line or hands_on.search(line), f"{path}: {line.strip()}"


def test_a_file_fits_the_head_or_says_why_not(sources):
    long = {str(path): text.count("\n") for path, text in sources.items() if text.count("\n") > LINES_MAX}
    assert long == {}


def test_no_lock_names_a_host():
    for path in tracked("*.lock", "*package-lock.json", "*requirements*.txt"):
        assert "://" not in path.read_text(), path


def test_no_file_holds_a_path_of_one_machine():
    own = re.compile(r"(?<![\w./:~-])/(?:root|work)/\w")
    for path in tracked():
        if path == Path(__file__) or path.suffix in {".png", ".ico"}:
            continue
        found = own.search(path.read_text(errors="ignore"))
        assert found is None, f"{path.relative_to(ROOT)}: {found and found.group()}"


def test_every_package_and_module_says_what_it_is_for(sources):
    for path, text in sources.items():
        assert text.startswith('"""'), path
