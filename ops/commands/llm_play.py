"""`sluicegate llm play`: a recording in the terminal, as a worker would read it."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # the command line is read by its types
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cyclopts import App

    from connectors.llm.deltas import Delta, Piece


_SHOWN_BYTES_MAX = 2_000


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(play_command, name="play")


def play_command(
    file: Annotated[Path, Parameter(help="A recording; or NAME.SHAPE of one that comes with us.")],
    *,
    speed: Annotated[float, Parameter(help="2 = twice as fast, 0 = as fast as can be.")] = 1.0,
    as_json: Annotated[bool, Parameter(name="--json", help="A JSON document a delta.", negative=())] = False,
) -> int:
    """Play a recording of a provider's answer: what a worker makes of it, at the cadence in which it came.

    The answer goes to standard output; reasoning, calls of tools, usage and why it ended to standard error.
    Exit code 1 if the answer is not whole.

    Example: `sluicegate llm play hello.stream.jsonl --speed 4`

    Example: `sluicegate llm play welcome.anthropic`
    """
    import time

    from connectors.llm.deltas import Failed
    from connectors.llm.loopback.library import OURS
    from connectors.llm.normalised import normalised
    from connectors.llm.providers import PROVIDERS
    from connectors.llm.recording import SUFFIX, read_recording
    from ops import console
    from ops.errors import Misused

    if not 0 <= speed <= 1_000_000:
        raise Misused(f"--speed {speed:g}: is from 0 to 1000000")
    ours = OURS / f"{file.name}{SUFFIX}"
    recording = read_recording(ours if not file.exists() and ours.exists() else file)
    shown = _AsJson() if as_json else _AsText()
    began = time.monotonic()
    failed = False
    for at_us, delta in normalised(recording, PROVIDERS[recording.shape]):
        if speed:
            time.sleep(max(0.0, began + at_us / 1e6 / speed - time.monotonic()))
        shown.show(at_us, delta)
        failed |= isinstance(delta, Failed)
    shown.end()
    if failed and not as_json:
        console.note(f"recorded: {_safe(recording.note) or 'no note'}")
    return 1 if failed else 0


class _AsJson:
    """A line a delta."""

    def show(self, at_us: int, delta: Delta) -> None:
        from ops import console

        console.print_json({"at_us": at_us, "delta": type(delta).__name__.lower(), **_fields(delta)})

    def end(self) -> None:
        pass


class _AsText:
    """Text as it comes; a line for what is none."""

    def __init__(self) -> None:
        from connectors.llm.deltas import Named, Usage
        from ops import console
        from ops.rendering import Renderer

        self._answer, self._beside = Renderer(console.out()), Renderer(console.err())
        self._part: tuple[object, ...] = ("text", "")
        self._named = Named()
        self._usage = Usage()

    def show(self, at_us: int, delta: Delta) -> None:  # noqa: ARG002  # as the other one
        from connectors.llm.deltas import Failed, Finished, Media, Named, Over, Piece, Usage
        from ops import console

        match delta:
            case Piece():
                self._piece(delta)
            case Media():
                self._say(f"media {delta.mime}, {delta.reference or f'{len(delta.data)} bytes'}")
            case Usage():
                self._usage = self._usage.updated(delta)  # some shapes tell it with each piece
            case Named():
                named = Named(delta.request_id or self._named.request_id, delta.model or self._named.model)
                if named != self._named:
                    self._named = named
                    self._say(" ".join(filter(None, (named.model, named.request_id))))
            case Finished():
                self._say(f"finished: {delta.finish or 'not said'} ({delta.raw})")
            case Failed():
                self._tell_usage()
                console.fail(f"{delta.error_class}: {_safe(delta.raw)}")
            case Over():
                self._tell_usage()

    def end(self) -> None:
        self._answer.end_line()
        self._beside.end_line()

    def _piece(self, piece: Piece) -> None:
        part = (piece.channel, piece.call_id)
        if part != self._part:
            self._part = part
            self._say(f"{piece.channel} {piece.tool}".rstrip())
        renderer = self._answer if piece.channel == "text" else self._beside
        renderer.show("token", {"text": piece.text})

    def _tell_usage(self) -> None:
        fields: dict[str, object] = {**_fields(self._usage), "details": None}
        fields.update(self._usage.details.items())
        counts = [f"{name} {count}" for name, count in fields.items() if count is not None]
        self._say(f"usage: {', '.join(counts) or 'not said'}")

    def _say(self, text: str) -> None:
        from ops import console

        self.end()
        console.note(f"[{_safe(text)}]")


def _safe(text: str) -> str:
    """A provider's own words must not steer a terminal."""
    from ops.redaction import escaped

    return escaped(text.encode(), _SHOWN_BYTES_MAX)


def _fields(delta: Delta) -> Mapping[str, object]:
    import base64
    from dataclasses import asdict

    fields = asdict(delta)
    if isinstance(fields.get("data"), bytes):
        fields["data"] = base64.b64encode(fields["data"]).decode()
    return fields
