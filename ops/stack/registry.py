"""The schema registry of the local stack: Apicurio, on a file of its own so that ids survive a restart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.stack.cache import unpacked
from ops.stack.java import archive_flags, common_flags, java
from ops.stack.launch import CLEAN_ENVIRONMENT, Launch
from ops.stack.parts import CCOMPAT_PATH, REGISTRY, REGISTRY_ENVIRONMENT
from ops.stack.ports import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path

    from ops.stack.parts import Part


@dataclass(frozen=True)
class RegistryService:
    """Apicurio with its data in ``folder``; ``cache_folder`` holds the program."""

    folder: Path
    cache_folder: Path
    port: int
    heap_mb: int
    part: Part = REGISTRY

    @property
    def address(self) -> str:
        """Base of the Confluent API."""
        return f"http://{LOOPBACK}:{self.port}{CCOMPAT_PATH}"

    def prepare(self) -> None:
        """Make the folder; the program makes its database itself."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def launch(self) -> Launch:
        """Start it without the optimising compiler: it answers few requests, and starts in half the time."""
        flags = (*common_flags(self.heap_mb, self.folder), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
        archive = archive_flags(self.cache_folder, self.folder)
        environment = {
            **CLEAN_ENVIRONMENT,
            **REGISTRY_ENVIRONMENT,
            "HOME": str(self.folder),
            "QUARKUS_HTTP_HOST": LOOPBACK,
            "QUARKUS_HTTP_PORT": str(self.port),
            # Health and metrics have a port of their own, 9000 on every address if nobody says otherwise.
            "QUARKUS_MANAGEMENT_HOST": LOOPBACK,
            "QUARKUS_MANAGEMENT_PORT": "0",
            "APICURIO_STORAGE_SQL_KIND": "h2",
            # H2 writes a commit up to half a second late; killed in between, the registry would forget an id
            # that already stands in a topic.
            "APICURIO_DATASOURCE_URL": f"jdbc:h2:file:{self.folder / 'schemas'};WRITE_DELAY=0",
            # A file that its owner alone can read; H2 wants a name and a word all the same.
            "APICURIO_DATASOURCE_USERNAME": "sluicegate",
            "APICURIO_DATASOURCE_PASSWORD": "sluicegate",
        }
        command = (java(), *flags, *archive, "-jar", "quarkus-run.jar")
        return Launch(command, cwd=unpacked(self.cache_folder), env=environment)
