"""From a request to what is played: the same request has the same answer."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson

from connectors.llm.loopback.errors import LoopbackRefused
from connectors.llm.loopback.play import JSON_TYPE, Play, play_recording, play_script
from connectors.llm.loopback.script import ANSWERS, script_of
from connectors.llm.loopback.shapes.anthropic import Anthropic
from connectors.llm.loopback.shapes.gemini import Gemini
from connectors.llm.loopback.shapes.ollama import Ollama
from connectors.llm.loopback.shapes.openai_chat import OpenAiChat
from connectors.llm.loopback.shapes.openai_responses import OpenAiResponses
from connectors.llm.loopback.wanted import parse_wanted
from connectors.llm.loopback.wheel import chunk_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.llm import calls
    from connectors.llm.loopback.kept import Seek
    from connectors.llm.loopback.library import Library
    from connectors.llm.loopback.script import Asked
    from connectors.llm.loopback.shapes.shape import Shape
    from connectors.llm.loopback.wanted import Wanted
    from connectors.llm.recording import Recording

CACHED_FRAMES_MAX: Final = 131_072
"""Of all answers together; of some 300 bytes each they are 40 MiB."""
CACHED_BODY_BYTES_MAX: Final = 16_384
_FRAMES_AN_ANSWER: Final = 64  # what its request's body, its key, may weigh
NAMES_MAX: Final = 10_000

SHAPES: Final[Mapping[calls.Shape, Shape]] = {
    shape.name: shape for shape in (OpenAiChat(), OpenAiResponses(), Anthropic(), Gemini(), Ollama())
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with."""

    model: str
    play: Play
    wire: tuple[bytes, ...] = field(repr=False, default=())
    """The frames with the framing of a chunk around each."""


def shape_of(path: str) -> Shape | None:
    """Give the shape that is spoken at a path; None = there is nothing."""
    if path.endswith("/chat/completions"):
        return SHAPES["openai-chat"]
    if path.endswith("/responses"):
        return SHAPES["openai-responses"]
    if path.endswith("/messages"):
        return SHAPES["anthropic"]
    if "/models/" in path and path.endswith(":streamGenerateContent"):
        return SHAPES["gemini"]
    return SHAPES["ollama"] if path.endswith("/api/chat") else None


class Answers:
    """Makes answers, and keeps some of the latest."""

    def __init__(self, library: Library, models: Mapping[str, str], speed: float) -> None:
        """Take what stands for other models' names, and the speed of recordings where none is asked for."""
        self.library = library
        self.models = dict(models)
        self._speed = speed
        self._made: OrderedDict[tuple[str, str, str, bytes], Answer] = OrderedDict()
        self._frames = 0
        self._faulty: Counter[str] = Counter()

    def answer(self, shape: Shape, path: str, more: str, body: bytes, seek: Seek | None = None) -> Answer:
        """Give the answer of a request; ``more`` is what it wants besides what its model's name says.

        With ``seek``, the rest of it: faults are a connection's, so they are had anew, and counted.
        """
        key = (shape.name, path, more, body)
        found = self._made.get(key)
        if found is not None and seek is None:
            return found
        model = ""
        try:
            asked = _asked(shape, path, body)
            model = asked.model
            name = self.models.get(model, model)
            wanted = parse_wanted(name, more)
            play = self._play(shape, asked, self._counted(name, wanted), seek)
        except LoopbackRefused as refused:
            return Answer(model, _refused(shape, refused))
        wire = tuple(chunk_of(frame) for frame in play.frames)
        made = Answer(model, play, wire)
        # A fault that passes has to be counted. Where a name comes to stand for another, all are forgotten.
        if seek is None and not wanted.times and len(body) <= CACHED_BODY_BYTES_MAX:
            self._keep(key, made)
        return made

    def _keep(self, key: tuple[str, str, str, bytes], made: Answer) -> None:
        self._made[key] = made
        self._frames += len(made.wire) + _FRAMES_AN_ANSWER
        while self._frames > CACHED_FRAMES_MAX:
            _, oldest = self._made.popitem(last=False)
            self._frames -= len(oldest.wire) + _FRAMES_AN_ANSWER

    def set_model(self, name: str, text: str) -> None:
        """Have a model's name stand for something else. Raises LoopbackRefused if there are too many."""
        if name not in self.models and len(self.models) >= NAMES_MAX:
            raise LoopbackRefused(f"{NAMES_MAX} names stand for something already")
        self.models[name] = text
        self._made.clear()
        self._frames = 0
        self._faulty.pop(text, None)

    def _play(self, shape: Shape, asked: Asked, wanted: Wanted, seek: Seek | None) -> Play:
        if not asked.stream:
            raise LoopbackRefused("it only streams", 'Ask with "stream": true.')
        recording = self._recording(wanted.answer, shape)
        if recording is not None:
            return play_recording(recording, wanted, shape, self._speed, seek)
        return play_script(script_of(asked, wanted), wanted, shape, seek)

    def _recording(self, name: str, shape: Shape) -> Recording | None:
        return None if name in ANSWERS else self.library.find(name, shape.name)

    def _counted(self, name: str, wanted: Wanted) -> Wanted:
        if not wanted.times:
            return wanted
        if len(self._faulty) >= NAMES_MAX:
            self._faulty.clear()
        self._faulty[name] += 1
        return wanted if self._faulty[name] <= wanted.times else wanted.good


def _asked(shape: Shape, path: str, body: bytes) -> Asked:
    try:
        value = orjson.loads(body)
        return shape.asked(path, value)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        problem = f"the request is none of the shape {shape.name}: {type(error).__name__} {error}"
        raise LoopbackRefused(problem) from None


def _refused(shape: Shape, refused: LoopbackRefused) -> Play:
    fault = "not_found" if refused.status == 404 else "bad_request"
    status, value = shape.refused(fault, f"{refused}. {refused.remedy}", "")
    return Play(status, {"content-type": JSON_TYPE}, body=orjson.dumps(value))
