"""The wire shapes, a file each with the same parts: see ``connectors.llm.provider.Provider``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connectors.llm.providers.anthropic import Anthropic
from connectors.llm.providers.gemini import Gemini
from connectors.llm.providers.ollama import Ollama
from connectors.llm.providers.openai_chat import OpenAiChat
from connectors.llm.providers.openai_responses import OpenAiResponses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.llm.calls import Shape
    from connectors.llm.provider import Provider

_ALL: Final[tuple[Provider, ...]] = (OpenAiChat(), OpenAiResponses(), Anthropic(), Gemini(), Ollama())
PROVIDERS: Final[Mapping[Shape, Provider]] = {each.shape: each for each in _ALL}
