"""Make `artefacts.lock` anew, for whoever changes a version in `parts.py`: `python -m ops.stack.relock`.

Here alone is Maven's dependency tree resolved (by jgo, from the versions in `parts.py`); a start only
downloads what the lock names, which is faster and cannot change under a user.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops.stack.artefacts import LOCK_FILE, Artefact
from ops.stack.parts import KAFKA, REGISTRY

if TYPE_CHECKING:
    from collections.abc import Iterable

HEADER = """\
# Written by `python -m ops.stack.relock`: what the local stack downloads, and nothing else.
# part group name version packaging classifier sha256 size
"""
SLF4J_VERSION = (
    "1.7.36"  # the binding of the slf4j-api that Kafka brings; without one a broker's log is silent
)


def main() -> None:
    """Resolve, download, hash and write."""
    from jgo.maven import MavenContext, PythonResolver

    context = MavenContext(resolver=PythonResolver())
    artefacts = [*kafka_jars(context), registry_archive(context)]
    LOCK_FILE.write_text(HEADER + "".join(f"{artefact.line()}\n" for artefact in artefacts), encoding="utf-8")


def kafka_jars(context: Any) -> Iterable[Artefact]:
    """Kafka's jars in the order of resolution."""
    from jgo.env import EnvironmentBuilder

    endpoint = (
        f"org.apache.kafka:kafka_2.13:{KAFKA.version}+org.slf4j:slf4j-simple:{SLF4J_VERSION}@kafka.Kafka"
    )
    environment = EnvironmentBuilder(context).from_endpoint(endpoint)
    for dependency in environment.lockfile.dependencies:
        artifact = context.project(dependency.groupId, dependency.artifactId).at_version(dependency.version)
        classifier = dependency.classifier or ""
        path = Path(artifact.artifact(classifier=classifier).resolve())
        yield of_file(
            KAFKA.name, dependency.groupId, dependency.artifactId, dependency.version, "jar", classifier, path
        )


def registry_archive(context: Any) -> Artefact:
    """Apicurio with everything it needs, as one archive."""
    group, name, packaging, classifier = "io.apicurio", "apicurio-registry-app", "tar.gz", "all"
    component = context.project(group, name).at_version(REGISTRY.version)
    path = Path(component.artifact(classifier=classifier, packaging=packaging).resolve())
    return of_file(REGISTRY.name, group, name, REGISTRY.version, packaging, classifier, path)


def of_file(
    part: str, group: str, name: str, version: str, packaging: str, classifier: str, path: Path
) -> Artefact:
    """Lock one file as it is."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Artefact(part, group, name, version, packaging, classifier, digest, path.stat().st_size)


if __name__ == "__main__":
    main()
