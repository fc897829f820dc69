"""Kafka Streams: its program compiled by the Eclipse compiler, for the package index's Java has none."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.peers.jars import COMPILER, KAFKA_STREAMS, folder_of, jars
from ops.stack.java import java

if TYPE_CHECKING:
    from ops.settings import Settings

SOURCE: Final = Path(__file__).with_name("WindowCounts.java")
# Heap and collector as Kafka's own start scripts set them; G1 would not be the default on a small machine.
FLAGS: Final = ("-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:-UsePerfData")
QUIET: Final = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "--enable-native-access=ALL-UNNAMED")
COMPILE_TIMEOUT_S: Final = 120.0


def command(settings: Settings) -> list[str]:
    """Return what runs it, fetched and compiled if need be; raises StackError, CalledProcessError."""
    libraries = ":".join(str(jar) for jar in jars(settings, KAFKA_STREAMS))
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    classes = folder_of(settings) / f"classes-{digest[:8]}"
    if not (classes / f"{SOURCE.stem}.class").exists():
        compiler = jars(settings, COMPILER)[0]
        subprocess.run(
            [java(), "-jar", str(compiler), "-source", "17", "-target", "17", "-proc:none", "-nowarn",
             "-cp", libraries, "-d", str(classes), str(SOURCE)],
            timeout=COMPILE_TIMEOUT_S, capture_output=True, text=True, check=True,
        )  # fmt: skip
    return [java(), *FLAGS, *QUIET, "-cp", f"{classes}:{libraries}", SOURCE.stem]
