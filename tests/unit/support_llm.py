"""A provider's body as an attempt reads it, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from connectors.llm.deltas import Failed, Finished, Media, Named, Over, Piece, Usage
from connectors.llm.framing import EVENT_BYTES_MAX, Frame, framer
from connectors.llm.providers import PROVIDERS
from connectors.llm.recording import read_recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from connectors.llm.calls import Shape
    from connectors.llm.deltas import Delta
    from connectors.llm.framing import Framed
    from connectors.llm.recording import Recording

RECORDINGS = Path(__file__).parents[1] / "recordings"
PATHS = sorted(RECORDINGS.glob("*/*.stream.jsonl"))


@dataclass
class Told:
    """What an answer said."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tools: dict[str, list[str]] = field(default_factory=dict)
    """Calls: id to name and arguments."""
    media: list[tuple[str, bytes]] = field(default_factory=list)
    usage: Usage | None = None
    finish: str = ""
    finish_raw: str = ""
    named: Named = field(default_factory=Named)
    end: str = ""
    """over, or the class of what failed."""
    error_raw: str = ""
    retry_after_ms: int = 0


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name.removesuffix('.stream.jsonl')}"


RECORDED: dict[str, Recording] = {name_of(path): read_recording(path) for path in PATHS}
STREAMED = {name: recording for name, recording in RECORDED.items() if recording.status == 200}


def body_of(recording: Recording) -> bytes:
    if recording.shape == "ollama":
        return b"".join(each.data.encode() + b"\n" for each in recording.events)
    return b"".join(_sse(each.event, each.data, each.comment) for each in recording.events)


def _sse(event: str, data: str, comment: str | None) -> bytes:
    if comment is not None:
        return f":{comment}\n\n".encode()
    return (f"event: {event}\n" if event else "").encode() + f"data: {data}\n\n".encode()


def sent(shape: Shape, event: str, data: str) -> bytes:
    if PROVIDERS[shape].framing == "ndjson":
        return f"{data}\n".encode()
    return f"event: {event}\ndata: {data}\n\n".encode() if event else f"data: {data}\n\n".encode()


def deltas_of(
    shape: Shape,
    chunks: Iterable[bytes],
    seen: Callable[[Framed], None] = lambda _framed: None,
    bytes_max: int = EVENT_BYTES_MAX,
) -> list[Delta]:
    """Read a body to its end, as ``connectors/llm/attempt.py`` does, but on past what ends an answer."""
    provider = PROVIDERS[shape]
    frames, normaliser = framer(provider.framing, bytes_max), provider.normaliser()
    out: list[Delta] = []

    def take(framed: Iterable[Framed]) -> None:
        for each in framed:
            seen(each)
            deltas = normaliser.take(*each) if isinstance(each, Frame) else (each,)
            assert deltas, "an event passes unseen"
            out.extend(deltas)

    for chunk in chunks:
        take(frames.feed(chunk))
    take(frames.eof())
    return [*out, *normaliser.eof()]


def ended(deltas: Iterable[Delta]) -> list[Delta]:
    """Give what comes up to the end, and the counts after it."""
    out: list[Delta] = []
    over = False
    for delta in deltas:
        if not over or isinstance(delta, Usage):
            out.append(delta)
        over = over or isinstance(delta, Over | Failed)
    return out


def told(deltas: Iterable[Delta]) -> Told:
    """Put together what an answer said."""
    out = Told()
    for delta in ended(deltas):
        match delta:
            case Piece() | Media():
                _content(delta, out)
            case Usage():
                out.usage = delta if out.usage is None else out.usage.updated(delta)
            case Finished():
                out.finish, out.finish_raw = delta.finish, delta.raw
            case Named():
                out.named = delta
            case Over():
                out.end = "over"
            case Failed():
                out.end, out.error_raw, out.retry_after_ms = (
                    delta.error_class,
                    delta.raw,
                    delta.retry_after_ms,
                )
    return out


def _content(delta: Piece | Media, out: Told) -> None:
    if isinstance(delta, Media):
        out.media.append((delta.mime, delta.data))
    elif delta.channel == "tool":
        out.tools.setdefault(delta.call_id, [delta.tool, ""])[1] += delta.text
    else:
        setattr(out, delta.channel, getattr(out, delta.channel) + delta.text)


def told_of(recording: Recording) -> Told:
    return told(deltas_of(recording.shape, [body_of(recording)]))
