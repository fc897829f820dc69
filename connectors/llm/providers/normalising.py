"""What the normalisers of all shapes have in common: the end of an answer, and reading JSON of a stranger."""

from __future__ import annotations

import base64
import binascii
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import orjson

from connectors.llm.deltas import (
    REFERENCE_CHARACTERS_MAX,
    Alive,
    Failed,
    Finished,
    Media,
    Named,
    Over,
    Piece,
    Usage,
)
from connectors.llm.framing import clipped
from connectors.llm.nesting import TooDeep, TooMany, read_event
from connectors.llm.providers.failures import failed_in_band
from schemas.envelope import UPSTREAM_BYTES_MAX, fitting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.llm.deltas import Channel, Delta, Detail, ErrorClass, Finish
    from connectors.llm.provider import Cursor

BLOCKS_MAX: Final = 4_096
"""Answers, blocks and tool calls that one answer may have: what is remembered of each has this bound."""
PARTS_MAX: Final = 4_096
"""Deltas that one event may make: the loop takes them one after the other, and all answers wait meanwhile."""
LIST_MAX: Final = 512
"""Objects in an event that is a list of them, which is a whole answer of a shape that lists its pieces."""
PIECE_CHARACTERS_MAX: Final = 65_536
"""Four bytes each at the most: an event carries 900 KiB, and a client is to see something soon."""
MEDIA_BYTES_MAX: Final = 262_144
NAME_BYTES_MAX: Final = UPSTREAM_BYTES_MAX
COUNT_MAX: Final = 1_000_000_000
"""A thousand times the context of any model: what is counted beyond it is no count, and no sum, cost or row
of the ledger leaves 64 bits by it."""
NOTHING: Final[Mapping[str, Any]] = {}
MODALITIES: Final = ("audio", "image", "video")


class Reader(ABC):
    """A normaliser but for its shape: see ``connectors.llm.provider.Normaliser`` for what it promises."""

    ends_unsaid = False
    """Whether an answer that said why it finished is whole without an end mark."""

    lists = False
    """Whether an event may be a list of objects, each of which is one."""

    def __init__(self) -> None:
        self._finished = False
        self._given_up = ""
        """The provider's own word, where it is none by which an answer is whole."""
        self._closed = False
        self.owes = False
        """See Normaliser."""
        self._named = Named()
        self._media_index = -1
        self._sound_mime = ""
        """MIME type of the sound that the latest piece was of."""

    @property
    def cursor(self) -> Cursor | None:
        """See Normaliser: of most shapes no answer can be gone on with."""
        return None

    def reconnected(self) -> None:  # noqa: B027  # nothing to do, but where answers can be gone on with
        """See Normaliser."""

    @abstractmethod
    def _event(self, event: str, value: Mapping[str, Any], out: list[Delta]) -> None:
        """Read one event, a JSON object."""

    def take(self, event: str, data: str) -> Sequence[Delta]:
        """Take one event; at least one delta comes of it."""
        out: list[Delta] = []
        problem = ""
        try:
            value = read_event(data)
        except ValueError as error:
            value, problem = None, str(error) if isinstance(error, TooDeep | TooMany) else ""
        if isinstance(value, dict):
            self._event(event, value, out)
        elif self.lists and isinstance(value, list) and len(value) > LIST_MAX:
            problem = f"a list of more than {LIST_MAX}"
        elif each_of := self._listed(event, value):
            for each in each_of:
                self._event(event, each, out)
        elif not problem or event == "error":
            self._other(event, data, out)
        if problem and not out:
            self._fail(out, "oversized", f"an event of {len(data)} characters that is {problem}")
        if len(out) > PARTS_MAX:
            out = self._cut(out)
        if len(data) > PIECE_CHARACTERS_MAX:
            out = [part for delta in out for part in _parts(delta)]
        return out or (Alive(clipped(event or data)),)

    def _listed(self, event: str, value: object) -> Sequence[Mapping[str, Any]]:
        """Give what is read of a list: all, where a shape lists its pieces; else its error, if it has one.

        Google lists errors in OpenAI's shape, too.
        """
        listed = objects(value)
        if self.lists:
            return listed
        return [each for each in listed if event == "error" or each.get("error")][:1]

    def eof(self) -> Sequence[Delta]:
        """Take the end of the body."""
        out: list[Delta] = []
        if not self._closed:
            if self._finished and self.ends_unsaid:
                self._over(out)
            else:
                self._fail(out, "truncated", "the body ended before the answer did")
        return out

    def _cut(self, out: list[Delta]) -> list[Delta]:
        """Give what may be shown of an event of too many parts, and what it says of its cost."""
        self._closed = True
        counts = [delta for delta in out[PARTS_MAX:] if isinstance(delta, Usage)]
        failed = Failed("oversized", f"an event of more than {PARTS_MAX} parts")
        return [*out[:PARTS_MAX], failed, *counts[-1:]]

    def _other(self, event: str, data: str, out: list[Delta]) -> None:
        """Read an event that is no JSON object."""
        if event == "error":
            self._error(out, data, data)
        else:
            self._fail(out, "malformed", f"an event of {len(data)} characters that is no JSON object")

    def _name(self, out: list[Delta], request_id: object = "", model: object = "") -> None:
        """Tell of names, if they are new."""
        if model == self._named.model and request_id in (self._named.request_id, ""):
            return
        named = Named(name_of(request_id) or self._named.request_id, name_of(model) or self._named.model)
        if named != self._named:
            self._named = named
            out.append(named)

    def _piece(self, out: list[Delta], channel: Channel, piece: object, index: int) -> None:
        """Tell of a piece of text, if it is one."""
        if isinstance(piece, str) and piece:
            out.append(Piece(channel, piece, index))

    def _media(self, out: list[Delta], mime: str, written: object, reference: object = "") -> None:
        """Tell of a picture or a piece of sound, given as base64 or by where it is kept.

        Pieces of one index join: of a picture that is too large for one event, and sound that follows sound.
        """
        if mime != name_of(mime):
            self._fail(
                out, "malformed", f"a media type of {len(mime)} characters, or one that cannot be shown"
            )
            return
        try:
            data = base64.b64decode(text(written), validate=True)
        except (binascii.Error, ValueError):
            self._fail(out, "malformed", f"{mime} that is not base64")
            return
        if not data and not text(reference):
            return
        if len(text(reference)) > REFERENCE_CHARACTERS_MAX:
            self._fail(out, "malformed", f"{mime} kept at an address of {len(text(reference))} characters")
            return
        if mime != self._sound_mime:
            self._media_index += 1
            self._sound_mime = mime if data and mime.startswith("audio/") else ""
        for start in range(0, max(1, len(data)), MEDIA_BYTES_MAX):
            piece = data[start : start + MEDIA_BYTES_MAX]
            out.append(Media(mime, self._media_index, piece, text(reference)))

    def _finish(self, out: list[Delta], finish: Finish, raw: str, stop_sequence: str = "") -> None:
        self._finished = True
        self._given_up = raw if finish == "other" else ""
        out.append(Finished(finish, clipped(raw), clipped(stop_sequence)))

    def _over(self, out: list[Delta]) -> None:
        """Take the shape's end mark, which makes an answer whole only if it finished in a known word."""
        if self._closed:
            return
        if not self._finished:
            self._fail(out, "truncated", "the answer ended without a reason")
            return
        if self._given_up:
            self._fail(out, "truncated", f"it finished as {self._given_up!r}, which is no whole answer")
            return
        self._closed = True
        out.append(Over())

    def _error(self, out: list[Delta], error: object, raw: str) -> None:
        if not self._closed:
            self._closed = True
            out.append(failed_in_band(error, raw))

    def _fail(self, out: list[Delta], error_class: ErrorClass, raw: str, masked: str = "") -> None:
        if not self._closed:
            self._closed = True
            out.append(Failed(error_class, clipped(raw), masked=clipped(masked)))


def text(value: object) -> str:
    """Give a text, empty if it is none."""
    return value if isinstance(value, str) else ""


def name_of(value: object) -> str:
    """Give a name (of an answer, a call, a tool, a model) as it may stand in each event of what it names."""
    return fitting(text(value), NAME_BYTES_MAX)


def mapping(value: object) -> Mapping[str, Any]:
    """Give an object, empty if it is none."""
    return value if isinstance(value, dict) else NOTHING


def objects(value: object) -> Sequence[Mapping[str, Any]]:
    """Give the objects of a list, none if it is no list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else ()


def kind_of(event: str, value: Mapping[str, Any]) -> str:
    """Give an event's type: as its data says, else its name; of an error either may be missing or its own."""
    if event == "error":
        return event
    return text(value.get("type")) or event or ("error" if value.get("error") else "")


def number(value: object) -> int | None:
    """Give a count (of tokens, or an index), None if it is none that an answer can have."""
    return value if type(value) is int and 0 <= value <= COUNT_MAX else None


def details_of(side: Literal["input", "cached", "output"], counts: Mapping[str, Any]) -> dict[Detail, int]:
    """Give what OpenAI's details of a count tell of sound, pictures and videos in it (``audio_tokens``)."""
    return {
        cast("Detail", f"{side}_{modality}"): count
        for modality in MODALITIES
        if (count := number(counts.get(f"{modality}_tokens"))) is not None and (count or side == "cached")
    }


def _parts(delta: Delta) -> Sequence[Delta]:
    """Cut a piece of text that is too long for one event."""
    if not isinstance(delta, Piece) or len(delta.text) <= PIECE_CHARACTERS_MAX:
        return (delta,)
    starts = range(0, len(delta.text), PIECE_CHARACTERS_MAX)
    return [replace(delta, text=delta.text[start : start + PIECE_CHARACTERS_MAX]) for start in starts]


def as_json(value: object) -> str:
    """Write back what was read, as JSON text."""
    return orjson.dumps(value).decode()
