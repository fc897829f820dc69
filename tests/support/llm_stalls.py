"""Recordings of each shape, held up before each of their chunks: where an answer is while its worker dies."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from connectors.llm.loopback.answers import SHAPES
from connectors.llm.recording import SUFFIX, read_recording, write_recording

if TYPE_CHECKING:
    from collections.abc import Sequence

    from connectors.llm.calls import Shape
    from connectors.llm.recording import Recording

NAME: Final = "reasoning"
"""Of each shape it has reasoning and text, and the frames around both."""
_FOLDER: Final = Path(__file__).parents[1] / "recordings"
_AN_HOUR_US: Final = 3_600_000_000


class Stall(NamedTuple):
    """An answer that is held up."""

    shape: Shape
    chunks: int
    """So many are sent before."""

    @property
    def stream(self) -> str:
        """The operation's name."""
        return f"{self.shape}-{self.chunks}"

    @property
    def model(self) -> str:
        """What is asked for; it stands for the recording that is held up, and later for the whole one."""
        return f"at-{self.stream}?tag={self.stream}"


@cache
def stalls() -> Sequence[Stall]:
    """Give one for each chunk of each shape's recording: before it the provider is silent."""
    return [
        Stall(shape, chunks) for shape in sorted(SHAPES) for chunks in range(len(_recording(shape).events))
    ]


def stalled_name(stall: Stall) -> str:
    """Give the recording that is held up, as the loopback provider is asked for it."""
    return f"{NAME}-{stall.chunks}?speed=1"


def recordings(folder: Path) -> Path:
    """Write them all, and the whole ones, to a folder, and give it."""
    folder.mkdir()
    for shape in SHAPES:
        write_recording(folder / f"{NAME}.{shape}{SUFFIX}", _recording(shape))
    for stall in stalls():
        whole = _recording(stall.shape)
        events = [
            replace(each, at_us=0 if number < stall.chunks else _AN_HOUR_US)
            for number, each in enumerate(whole.events)
        ]
        path = folder / f"{NAME}-{stall.chunks}.{stall.shape}{SUFFIX}"
        write_recording(path, replace(whole, events=events))
    return folder


@cache
def _recording(shape: Shape) -> Recording:
    return read_recording(_FOLDER / shape / f"{NAME}{SUFFIX}")
