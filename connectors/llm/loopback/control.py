"""What a test can ask besides answers: which calls there were, and what a model's name stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

import orjson

from connectors.llm.loopback.errors import LoopbackRefused
from connectors.llm.loopback.script import ANSWERS
from connectors.llm.loopback.wanted import FAULTS, parse_wanted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.llm.loopback.answers import Answers
    from connectors.llm.loopback.seen import Calls

Said = tuple[int, bytes, "Mapping[str, str]"]


class Control:
    """Answers all that is no call of a model."""

    def __init__(self, answers: Answers, calls: Calls) -> None:
        self._answers = answers
        self._calls = calls

    def answer(self, method: str, path: str, query: Mapping[str, Sequence[str]], body: bytes) -> Said:
        """Give status, body and headers."""
        if method == "PUT" and path.startswith("/_models/"):
            return self._set(unquote(path.removeprefix("/_models/")), body)
        told = self._told(method, path, query)
        if told is None:
            return _json({"error": {"message": f"there is nothing at {method} {path}"}}, 404)
        return _json(told)

    def _told(self, method: str, path: str, query: Mapping[str, Sequence[str]]) -> object:
        told: object = None
        match method, path:
            case "GET", "/_calls":
                after = query.get("after", ["0"])[0]
                told = self._calls.told(int(after) if after.isdecimal() else 0)
            case "DELETE", "/_calls":
                self._calls.clear()
                told = {}
            case "GET", "/_faults":
                told = FAULTS
            case "GET", "/healthz":
                told = {"status": "ok"}
            case "GET", ("/v1/models" | "/models"):
                told = {"object": "list", "data": [_model(name) for name in self.names()]}
            case "GET", "/api/tags":
                told = {"models": [{"name": name, "model": name} for name in self.names()]}
        return told

    def names(self) -> list[str]:
        """Give the names of all models."""
        return [*ANSWERS, *self._answers.library.names(), *self._answers.models]

    def _set(self, name: str, body: bytes) -> Said:
        """Have a model's name stand for something: ``words?fault=server``."""
        text = body.decode("utf-8", "replace").strip()
        try:
            parse_wanted(text)
            self._answers.set_model(name, text)
        except LoopbackRefused as refused:
            return _json({"error": {"message": f"{refused}. {refused.remedy}"}}, 400)
        return _json({name: text})


def _model(name: str) -> Mapping[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "loopback"}


def _json(value: object, status: int = 200) -> Said:
    return status, orjson.dumps(value), {"content-type": "application/json"}
