"""A recording as deltas: what a worker would make of the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connectors.llm.deltas import Alive, Failed, Over
from connectors.llm.framing import Frame, framer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from connectors.llm.deltas import Delta
    from connectors.llm.provider import Provider
    from connectors.llm.recording import Recording


def normalised(recording: Recording, provider: Provider) -> Iterator[tuple[int, Delta]]:
    """Give its deltas, each with microseconds since the request, up to its end or its failure."""
    for at_us, deltas in _batches(recording, provider):
        for delta in deltas:
            yield at_us, delta
            if isinstance(delta, (Over, Failed)):
                return


def unfinished(recording: Recording, provider: Provider) -> str:
    """Say why an answer of status 200 is not whole, in the provider's words; empty = it is."""
    for _, delta in normalised(recording, provider):
        if isinstance(delta, Failed):
            return f"{delta.error_class}: {delta.raw}"
    return ""


def _batches(recording: Recording, provider: Provider) -> Iterator[tuple[int, Sequence[Delta]]]:
    at_us = 0
    if recording.status != 200:
        at_us = recording.events[-1].at_us if recording.events else 0
        yield at_us, [provider.failed(recording.status, recording.headers, recording.body)]
        return
    yield 0, [provider.named(recording.headers)]
    normaliser = provider.normaliser()
    if recording.is_body:
        frames = framer(provider.framing)
        for framed in (*frames.feed(recording.body), *frames.eof()):
            yield at_us, normaliser.take(*framed) if isinstance(framed, Frame) else [framed]
        yield at_us, normaliser.eof()
        return
    for each in recording.events:
        at_us = each.at_us
        comment = each.comment
        yield at_us, [Alive(comment)] if comment is not None else normaliser.take(each.event, each.data)
    yield at_us, normaliser.eof()
