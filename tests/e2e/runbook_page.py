"""Reads a runbook: its parts, and the command blocks with what they are to print."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

RUNBOOKS = Path(__file__).resolve().parents[2] / "runbooks"
PARTS = ("Meaning", "Impact", "Diagnosis", "Mitigation", "Verification", "Escalation", "Silencing")

_BLOCK = re.compile(
    r"^<!-- block: (?P<name>[a-z0-9-]+)(?: exit=(?P<exit>\d+))? -->\n"
    r"```sh\n(?P<script>.*?)^```\n"
    r"(?:```text\n(?P<expected>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """One command block of a page."""

    name: str
    script: str
    exit_code: int
    expected: tuple[str, ...]
    """Lines that the output must have, in this order; `…` stands for anything."""

    def missing_from(self, output: str) -> str | None:
        """The first expected line that does not stand, after those before it, in the output."""
        lines = iter(output.splitlines())
        for wanted in self.expected:
            pattern = _pattern(wanted)
            if not any(pattern.fullmatch(line.strip()) for line in lines):
                return wanted
        return None


@dataclass(frozen=True, slots=True)
class Page:
    """A runbook."""

    name: str
    text: str

    @property
    def parts(self) -> list[str]:
        """Titles of its second level."""
        return re.findall(r"^## (.+)$", self.text, re.MULTILINE)

    @property
    def blocks(self) -> dict[str, Block]:
        """Its command blocks by name, in the order of the page."""
        found: dict[str, Block] = {}
        for match in _BLOCK.finditer(self.text):
            assert match["name"] not in found, f"{self.name}: two blocks are called {match['name']}"
            found[match["name"]] = Block(
                match["name"],
                match["script"],
                int(match["exit"] or 0),
                tuple(line for line in (match["expected"] or "").splitlines() if line.strip()),
            )
        return found


def page(name: str) -> Page:
    """Read a runbook by the name of its alert."""
    return Page(name, (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8"))


def pages() -> list[str]:
    """Names of all runbooks."""
    return sorted(path.stem for path in RUNBOOKS.glob("*.md") if path.stem != "README")


def pasted(page_name: str, block_name: str, environment: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and output of a block in a shell as people have it, which goes on after what failed."""
    done = subprocess.run(
        ["bash", "-c", page(page_name).blocks[block_name].script],
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout


def _pattern(line: str) -> re.Pattern[str]:
    """Compile an expected line: `…` is anything, and any width of space is as good as another."""
    literal = re.escape(re.sub(r"\s+", " ", line.strip()))
    return re.compile(literal.replace("…", ".*").replace(r"\ ", r"\s*"))
