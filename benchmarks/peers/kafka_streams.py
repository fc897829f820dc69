"""Kafka Streams: its programs compiled by the Eclipse compiler, for the package index's Java has none."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.peers.jars import COMPILER, KAFKA_STREAMS, folder_of, jars
from ops.stack.java import java

if TYPE_CHECKING:
    from ops.settings import Settings

WINDOWS: Final = "WindowCounts"
KEYED: Final = "KeyedCounts"
ORDERING: Final = "Ordering"
SOURCES: Final = tuple(
    Path(__file__).with_name(f"{name}.java") for name in ("Readings", WINDOWS, KEYED, ORDERING)
)
# Heap and collector as Kafka's own start scripts set them; G1 would not be the default on a small machine.
FLAGS: Final = ("-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:-UsePerfData")
QUIET: Final = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "--enable-native-access=ALL-UNNAMED")
COMPILE_TIMEOUT_S: Final = 120.0


def command(settings: Settings, program: str) -> list[str]:
    """Return what runs a program, fetched and compiled if need be; raises StackError, CalledProcessError."""
    libraries = ":".join(str(jar) for jar in jars(settings, KAFKA_STREAMS))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest()
    classes = folder_of(settings) / f"classes-{digest[:8]}"
    if not classes.exists():
        fresh = classes.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        compiler = jars(settings, COMPILER)[0]
        subprocess.run(
            [java(), "-jar", str(compiler), "-source", "17", "-target", "17", "-proc:none", "-nowarn",
             "-cp", libraries, "-d", str(fresh), *map(str, SOURCES)],
            timeout=COMPILE_TIMEOUT_S, capture_output=True, text=True, check=True,
        )  # fmt: skip
        fresh.rename(classes)  # never half compiled
    return [java(), *FLAGS, *QUIET, "-cp", f"{classes}:{libraries}", program]
