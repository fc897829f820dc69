"""Kafka of the local stack: one node, broker and controller in one process."""

from __future__ import annotations

import base64
import subprocess
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.stack.errors import PartFailed
from ops.stack.java import archive_flags, common_flags, java
from ops.stack.launch import CLEAN_ENVIRONMENT, Launch
from ops.stack.logs import last_lines
from ops.stack.parts import KAFKA, KAFKA_CONFIG
from ops.stack.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ops.stack.parts import Part

FORMAT_TIMEOUT_S = 60.0
# Through slf4j-simple, whose binding the lock adds: without one a broker dies without a word.
LOG_FLAGS = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
)


@dataclass(frozen=True)
class KafkaService:
    """Kafka with its data in ``folder``; ``cache_folder`` holds the jars."""

    folder: Path
    cache_folder: Path
    jars: tuple[Path, ...]
    port: int
    controller_port: int
    heap_mb: int
    group_wait_ms: int = 0
    part: Part = KAFKA

    @property
    def address(self) -> str:
        """Bootstrap server."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _class_path(self) -> str:
        return ":".join(str(jar) for jar in self.jars)

    def prepare(self) -> None:
        """Write the configuration; format the log folder the first time."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "logs").mkdir(exist_ok=True)
        lines = [f"{name}={escaped(value)}\n" for name, value in self._config().items()]
        self._properties.write_text("".join(lines), encoding="ascii")
        if not (self.folder / "logs" / "meta.properties").exists():
            self._format()

    def _config(self) -> Mapping[str, str]:
        return {
            **KAFKA_CONFIG,
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{LOOPBACK}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "controller.quorum.voters": f"1@{LOOPBACK}:{self.controller_port}",
            "log.dirs": str(self.folder / "logs"),
            "group.initial.rebalance.delay.ms": str(self.group_wait_ms),
        }

    def _format_options(self) -> tuple[str, ...]:
        """More words for the formatting; none here, as the local stack knows no users."""
        return ()

    def _cluster_id(self) -> str:
        """Identity of the cluster; one node is one of its own."""
        return new_cluster_id()

    def _format(self) -> None:
        log = self.folder / "format.log"
        flags = (*common_flags(self.heap_mb, self.folder), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
        tool = ("kafka.tools.StorageTool", "format", "-t", self._cluster_id(), "-c", str(self._properties))
        command = (java(), *flags, *LOG_FLAGS, "-cp", self._class_path, *tool, *self._format_options())
        try:
            with log.open("wb") as sink:
                subprocess.run(
                    command,
                    env=CLEAN_ENVIRONMENT,
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                    timeout=FORMAT_TIMEOUT_S,
                    check=True,
                )
        except (subprocess.SubprocessError, OSError) as error:
            problem = f"could not format its log folder ({type(error).__name__})"
            raise PartFailed(self.part.title, problem, log, last_lines(log)) from error

    def launch(self) -> Launch:
        """Start it with the optimising compiler on: a broker lives long; its start is the archive's care."""
        flags = (*common_flags(self.heap_mb, self.folder), "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20")
        archive = archive_flags(self.cache_folder, self.folder)
        main = ("-cp", self._class_path, "kafka.Kafka", str(self._properties))
        return Launch((java(), *flags, *archive, *LOG_FLAGS, *main), cwd=self.folder)


def escaped(value: str) -> str:
    """Write a value as Java reads it in a properties file: ASCII, all else as UTF-16 escapes."""
    units = value.replace("\\", "\\\\").encode("utf-16-be")
    codes = (int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2))
    return "".join(chr(code) if 0x20 <= code < 0x7F else f"\\u{code:04x}" for code in codes)


def new_cluster_id() -> str:
    """Make an id as Kafka does: 16 random bytes in URL-safe base64, never one that reads as an option."""
    text = "-"
    while text.startswith("-"):
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    return text
