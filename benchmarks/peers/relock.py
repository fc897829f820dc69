"""Make `artefacts.lock` anew, for whoever changes a version here: `python -m benchmarks.peers.relock`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peers.jars import COMPILER, KAFKA_STREAMS, LOCK_FILE
from ops.stack.parts import KAFKA
from ops.stack.relock import SLF4J_VERSION, of_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ops.stack.artefacts import Artefact

HEADER: Final = """\
# Written by `python -m benchmarks.peers.relock`: what `make bench` downloads for its peers on Java.
# part group name version packaging classifier sha256 size
"""
STREAMS: Final = (
    f"org.apache.kafka:kafka-streams:{KAFKA.version}+org.apache.avro:avro:1.12.1"
    f"+org.slf4j:slf4j-simple:{SLF4J_VERSION}@WindowCounts"
)
ECJ: Final = ("org.eclipse.jdt", "ecj", "3.43.0")


def main() -> None:
    """Resolve, download, hash and write."""
    from jgo.maven import MavenContext, PythonResolver

    context = MavenContext(resolver=PythonResolver())
    artefacts = [*_streams(context), _compiler(context)]
    LOCK_FILE.write_text(HEADER + "".join(f"{artefact.line()}\n" for artefact in artefacts), encoding="utf-8")


def _streams(context: Any) -> Iterator[Artefact]:
    from jgo.env import EnvironmentBuilder

    for found in EnvironmentBuilder(context).from_endpoint(STREAMS).lockfile.dependencies:
        component = context.project(found.groupId, found.artifactId).at_version(found.version)
        path = Path(component.artifact().resolve())
        yield of_file(KAFKA_STREAMS, found.groupId, found.artifactId, found.version, "jar", "", path)


def _compiler(context: Any) -> Artefact:
    group, name, version = ECJ
    path = Path(context.project(group, name).at_version(version).artifact().resolve())
    return of_file(COMPILER, group, name, version, "jar", "", path)


if __name__ == "__main__":
    main()
