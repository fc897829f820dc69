"""Writes the recordings that come with the package: a pleasant answer in each shape, with a model's cadence.

They are made up, and their notes say so; ``python -m connectors.llm.loopback.demo`` writes them again, and a
test holds the files to it.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from connectors.llm.loopback.answers import SHAPES
from connectors.llm.loopback.library import OURS
from connectors.llm.loopback.play import paced
from connectors.llm.loopback.script import Script, pieces_of
from connectors.llm.loopback.wanted import Wanted
from connectors.llm.recording import SUFFIX, Recorded, Recording, write_recording

if TYPE_CHECKING:
    from connectors.llm.loopback.shapes.shape import Shape

NAME: Final = "welcome"
NOTE: Final = "made up by connectors/llm/loopback/demo.py: no model wrote it"
TEXT: Final = """\
A sluice gate is a small door with a large responsibility. Behind it, a river leans on the wood; in front of \
it, a meadow waits for just enough water and not a drop more.

A stream of tokens is much the same:

1. It arrives in bursts, because whoever makes it is thinking.
2. It must stay in order, because “not” before “ready” is another sentence.
3. It may be cut off, and then somebody should say so — plainly, and only once.

What you are reading came through such a gate. Each word was written to a log before it was shown to you, so \
if your connection drops in the middle of a sentence, you will find the rest of it waiting where you left \
off. Nothing is lost, nothing is said twice, and the river does not notice that you were gone.

Try it: close this page, count to three, and come back. ☕
"""
_FIRST_US: Final = 380_000
_TOKEN_US: Final = 28_000
_PAUSES_US: Final = {".": 140_000, ":": 110_000, ",": 45_000, "\n": 90_000, ";": 70_000}


def recording_of(shape: Shape) -> Recording:
    """Make the recording of a shape."""
    pieces = pieces_of(TEXT)
    script = Script(
        model="replay-welcome",
        key="a51c1ce9a7e00000000000000000cafe",
        text=pieces,
        input_tokens=24,
        output_tokens=len(pieces),
    )
    times = iter(_cadence(pieces))
    at_us = 90_000
    events = []
    for line in paced(script, Wanted("words"), shape):
        if line.kind == "content":
            at_us = next(times, at_us)
        events.append(Recorded(at_us, line.data, line.event))
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    if shape.framing == "ndjson":
        headers = {"content-type": "application/x-ndjson"}
    if shape.request_id_header:
        headers[shape.request_id_header] = "req_replay_welcome"
    return Recording(shape.name, events, headers=headers, note=NOTE)


def _cadence(pieces: list[str]) -> list[int]:
    """Give when each piece comes: bursts, and pauses where a sentence ends."""
    rng = random.Random(7)  # noqa: S311  # the same at each run
    times, at_us = [], _FIRST_US
    for piece in pieces:
        times.append(at_us)
        pause_us = _PAUSES_US.get(piece[-1:], 0) + (_PAUSES_US["\n"] if "\n" in piece[:-1] else 0)
        at_us += round(rng.lognormvariate(0, 0.45) * _TOKEN_US + rng.random() * pause_us)
    return times


def main() -> None:
    """Write them all."""
    OURS.mkdir(exist_ok=True)
    for name, shape in SHAPES.items():
        write_recording(OURS / f"{NAME}.{name}{SUFFIX}", recording_of(shape))


if __name__ == "__main__":
    main()
