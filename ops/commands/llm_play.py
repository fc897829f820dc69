"""`sluicegate llm play`: a recording in the terminal, as a worker would read it."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # the command line is read by its types
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cyclopts import App

    from connectors.llm.deltas import Delta


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

    Text goes to standard output, what is no text (usage, why it ended) to standard error. Exit code 1 if
    the answer is not whole.

    Examples: `sluicegate llm play hello.stream.jsonl --speed 4`, `sluicegate llm play welcome.anthropic`
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
        console.note(f"recorded: {recording.note or 'no note'}")
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
        from ops import console
        from ops.rendering import Renderer

        self._renderer = Renderer(console.out())
        self._part: tuple[object, ...] = ("text", "")

    def show(self, at_us: int, delta: Delta) -> None:  # noqa: ARG002  # as the other one
        from connectors.llm.deltas import Alive, Failed, Finished, Media, Named, Over, Piece, Usage
        from ops import console

        match delta:
            case Piece():
                part = (delta.channel, delta.call_id)
                if part != self._part:
                    self.end()
                    console.note(f"[{delta.channel}{' ' + delta.tool if delta.tool else ''}]")
                    self._part = part
                self._renderer.show("token", {"text": delta.text})
                return
            case Alive() | Over():
                return
            case Media():
                said = f"[media {delta.mime}, {len(delta.data)} bytes]"
            case Usage():
                counts = (f"{name} {count}" for name, count in _fields(delta).items() if count is not None)
                said = f"[usage: {', '.join(counts)}]"
            case Named():
                names = " ".join(filter(None, (delta.model, delta.request_id)))
                said = f"[{names}]" if names else ""
            case Finished():
                said = f"[finished: {delta.finish or 'not said'} ({delta.raw})]"
            case Failed():
                self.end()
                console.fail(f"{delta.error_class}: {delta.raw}")
                return
        if said:
            self.end()
            console.note(said)

    def end(self) -> None:
        self._renderer.end_line()


def _fields(delta: Delta) -> Mapping[str, object]:
    import base64
    from dataclasses import asdict

    fields = asdict(delta)
    if isinstance(fields.get("data"), bytes):
        fields["data"] = base64.b64encode(fields["data"]).decode()
    return fields
