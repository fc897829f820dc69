"""What the local stack downloads: Maven coordinates, each locked to a size and a SHA-256."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LOCK_FILE = Path(__file__).with_name("artefacts.lock")


@dataclass(frozen=True, slots=True)
class Artefact:
    """One file of a Maven repository, as it was when it was locked."""

    part: str
    group: str
    name: str
    version: str
    packaging: str
    classifier: str
    sha256: str
    size_bytes: int

    @property
    def coordinates(self) -> str:
        """Coordinates as people write them, for messages."""
        kind = f":{self.packaging}:{self.classifier}" if self.classifier else f":{self.packaging}"
        return f"{self.group}:{self.name}:{self.version}{kind}"

    @property
    def file_name(self) -> str:
        """Name of the file in the repository and in the cache."""
        suffix = f"-{self.classifier}" if self.classifier else ""
        return f"{self.name}-{self.version}{suffix}.{self.packaging}"

    @property
    def repository_path(self) -> str:
        """Path below the repository's base (Maven's default layout)."""
        return f"{self.group.replace('.', '/')}/{self.name}/{self.version}/{self.file_name}"

    def line(self) -> str:
        """Line of the lock file."""
        fields = (self.part, self.group, self.name, self.version, self.packaging, self.classifier or "-")
        return " ".join((*fields, self.sha256, str(self.size_bytes)))


def parse_line(line: str) -> Artefact:
    """Read a line of the lock file; raises ValueError if it is none."""
    part, group, name, version, packaging, classifier, sha256, size = line.split()
    classifier = "" if classifier == "-" else classifier
    return Artefact(part, group, name, version, packaging, classifier, sha256, int(size))


def locked(lock_file: Path = LOCK_FILE) -> tuple[Artefact, ...]:
    """Every locked artefact, in the order of the file, which is the order of the class path."""
    lines = lock_file.read_text(encoding="utf-8").splitlines()
    return tuple(parse_line(line) for line in lines if line.strip() and not line.startswith("#"))
