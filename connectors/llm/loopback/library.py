"""The recordings that can be asked for by name: ours, and a folder's."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from connectors.llm.calls import Shape
from connectors.llm.loopback.errors import LoopbackRefused
from connectors.llm.recording import SUFFIX, read_recording

if TYPE_CHECKING:
    from connectors.llm.recording import Recording

OURS: Final = Path(__file__).parent / "recordings"
CACHED_MAX: Final = 16


class Library:
    """Recordings by name and shape; ``hello.anthropic.stream.jsonl`` is ``hello`` for that shape.

    A file without a shape in its name is found by its whole name, by those who ask in its shape.
    Files are found once, at the start, and read when they are asked for: a name from outside never becomes
    a path.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Find the files; the folder's go before ours of the same name."""
        self._paths: dict[tuple[str, str], Path] = {}
        for place in filter(None, (OURS, folder)):
            for path in sorted(place.glob(f"*{SUFFIX}")):
                stem = path.name.removesuffix(SUFFIX)
                name, _, shape = stem.rpartition(".")
                known = bool(name) and shape in get_args(Shape)
                self._paths[(name, shape) if known else (stem, "")] = path
        self._read: OrderedDict[Path, Recording] = OrderedDict()

    def names(self) -> list[str]:
        """Give the names, sorted."""
        return sorted({name for name, _ in self._paths})

    def find(self, name: str, shape: str) -> Recording | None:
        """Give a recording, None if there is none of that name.

        Raises:
            LoopbackRefused: it is of another shape.
            RecordingRefused: it cannot be read.
        """
        path = self._paths.get((name, shape)) or self._paths.get((name, ""))
        if path is None:
            if name in self.names():
                raise LoopbackRefused(f"there is no recording {name!r} of the shape {shape}", status=404)
            return None
        recording = self._read.get(path)
        if recording is None:
            recording = self._read[path] = read_recording(path)
            if len(self._read) > CACHED_MAX:
                self._read.popitem(last=False)
        if recording.shape != shape:
            raise LoopbackRefused(f"the recording {name!r} is of the shape {recording.shape}, not {shape}")
        return recording
