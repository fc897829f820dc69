"""What is refused before a provider is called."""

from __future__ import annotations

from schemas.errors import SluicegateError


class LlmError(SluicegateError):
    """Anything of language-model streams that is said to a person."""


class CallRefused(LlmError):
    """A call cannot be made as it was asked for: nothing was sent."""

    def __init__(self, where: str, problem: str, remedy: str = "Correct the request.") -> None:
        super().__init__(f"{where}: {problem}", remedy=remedy)
        self.where = where


class RouteRefused(LlmError):
    """A route's configuration cannot be used."""


class PromptRefused(LlmError):
    """A prompt, its label or its variables cannot be used."""


class RecordingRefused(LlmError):
    """A recording cannot be read."""
