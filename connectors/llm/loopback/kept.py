"""Answers that were asked for with ``background`` (OpenAI's responses): they go on though nobody reads."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.llm.loopback.answers import Answer

KEPT_MAX: Final = 1_000
_PATH: Final = re.compile(r"/responses/(?P<answer_id>[\w-]+)(?P<cancel>/cancel)?")
_CANCELS: Final = {"GET": False, "POST": True}


@dataclass(frozen=True, slots=True)
class Seek:
    """From where on an answer is read again."""

    after: int
    """Number of the last event that its reader has."""
    elapsed_us: int
    """Since it was asked for."""


@dataclass(slots=True)
class Kept:
    """One answer, by what it was asked for with: the same request has the same answer."""

    path: str
    more: str
    body: bytes
    began_us: int
    cancelled: bool = False


class KeptAnswers:
    """The latest. Two of the same request have one name, and are one answer, begun with the later one."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, Kept] = OrderedDict()

    def keep(self, path: str, more: str, body: bytes, answer: Answer, now_us: int) -> None:
        """Keep an answer, if its request wants it."""
        if b'"background"' not in body or not (answer_id := _id_of(answer)):
            return
        try:
            wanted = orjson.loads(body).get("background") is True
        except (orjson.JSONDecodeError, AttributeError):
            wanted = False
        if wanted:
            self._by_id[answer_id] = Kept(path, more, body, now_us)
            self._by_id.move_to_end(answer_id)
            if len(self._by_id) > KEPT_MAX:
                self._by_id.popitem(last=False)

    def asked(self, method: str, path: str) -> re.Match[str] | None:
        """Say whether a request is for a kept answer: its parts are ``answer_id`` and ``cancel``."""
        found = _PATH.search(path)
        if found is None or found.end() != len(path) or bool(found["cancel"]) != _CANCELS.get(method):
            return None
        return found

    def find(self, answer_id: str) -> Kept | None:
        """Give one that is still kept."""
        return self._by_id.get(answer_id)

    def forget(self) -> None:
        """Keep none of those that are kept."""
        self._by_id.clear()


def seek_of(kept: Kept, query: Mapping[str, Sequence[str]], now_us: int) -> Seek:
    """Read from where on it is asked for."""
    after = query.get("starting_after", ["-1"])[0]
    return Seek(int(after) if after.isdecimal() else -1, now_us - kept.began_us)


def cancelled(answer_id: str) -> bytes:
    """Say that an answer was cancelled."""
    told: dict[str, Any] = {"id": answer_id, "object": "response", "status": "cancelled", "background": True}
    return orjson.dumps(told)


def _id_of(answer: Answer) -> str:
    """Read an answer's name off its first event; empty = it has none."""
    data = b"".join(answer.play.frames[:1]).partition(b"data: ")[2].partition(b"\n")[0]
    try:
        return str(orjson.loads(data)["response"]["id"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
