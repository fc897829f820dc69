"""What the loopback provider refuses; the client has it in its own shape."""

from __future__ import annotations

from connectors.llm.errors import LlmError


class LoopbackRefused(LlmError):
    """A request that cannot be answered as it was asked for; ``status`` is that of HTTP."""

    def __init__(self, problem: str, remedy: str = "Correct the request.", *, status: int = 400) -> None:
        super().__init__(problem, remedy=remedy)
        self.status = status
