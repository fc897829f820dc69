"""What an attempt's answer came to, as far as it is kept: what clients were given of each channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from connectors.llm.deltas import Media

if TYPE_CHECKING:
    from connectors.llm.deltas import Piece

KEPT_MAX: Final = 200_000
"""Characters of an answer's text that are kept, and as many of all else; what is longer is cut there on the
ledger, never in the stream."""
MEDIA_MAX: Final = 1_000
"""Pictures and sounds that are named."""


class Contents:
    """One attempt's; sound and pictures are named, not kept."""

    def __init__(self, *, text_alone: bool = False) -> None:
        """``text_alone``: nothing else is wanted, as it is for another attempt to go on behind it."""
        self._text_alone = text_alone
        self._text: list[str] = []
        self._said: dict[str, list[str]] = {}
        self._calls: dict[tuple[int, str], dict[str, Any]] = {}
        self._media: dict[int, dict[str, Any]] = {}
        self._text_room = self._room = KEPT_MAX
        self._cut = False
        self.problem = ""
        """How it breaks the schema that it must follow, in words; empty = it does not."""

    @property
    def text(self) -> str:
        """The answer's text."""
        return "".join(self._text)

    def take(self, delta: Piece | Media) -> None:
        """Take what clients are given."""
        if not isinstance(delta, Media) and delta.channel == "text":
            self._text_room -= self._keep(delta.text, self._text, self._text_room)
        elif self._text_alone:
            return
        elif isinstance(delta, Media):
            self._name(delta)
        elif delta.channel != "tool":
            self._room -= self._keep(delta.text, self._said.setdefault(delta.channel, []), self._room)
        elif call := self._call(delta):
            self._room -= self._keep(delta.text, call["arguments"], self._room)

    def value(self) -> dict[str, Any]:
        """Give all of it; what there is none of is left out, but for the text."""
        value: dict[str, Any] = {"text": self.text}
        value |= {channel: "".join(said) for channel, said in self._said.items()}
        if self._calls:
            calls = self._calls.values()
            value["tool_calls"] = [{**call, "arguments": "".join(call["arguments"])} for call in calls]
        if self._media:
            value["media"] = list(self._media.values())
        if self.problem:
            value["problem"] = self.problem
        return value | ({"cut": True} if self._cut else {})

    def _keep(self, text: str, pieces: list[str], room: int) -> int:
        """Keep what there is room for of a piece; give how much that was."""
        self._cut = self._cut or len(text) > room
        if kept := text[:room]:
            pieces.append(kept)
        return len(kept)

    def _call(self, piece: Piece) -> dict[str, Any] | None:
        """Give the call that a piece is of; a new one takes room for its names."""
        key = piece.index, piece.call_id
        if key not in self._calls:
            if len(piece.call_id) + len(piece.tool) > self._room:
                self._cut = True
                return None
            self._room -= len(piece.call_id) + len(piece.tool)
            self._calls[key] = {"id": piece.call_id, "name": piece.tool, "arguments": []}
        return self._calls[key]

    def _name(self, media: Media) -> None:
        if media.index not in self._media and len(self._media) >= MEDIA_MAX:
            self._cut = True
            return
        named = self._media.setdefault(media.index, {"mime": media.mime, "index": media.index, "bytes": 0})
        named["bytes"] += len(media.data)
        if media.reference:
            named["reference"] = media.reference
