"""The wire shapes, a file each with the same parts: see ``connectors.llm.provider.Provider``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connectors.llm.providers.anthropic import Anthropic
from connectors.llm.providers.openai_chat import OpenAiChat

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.llm.calls import Shape
    from connectors.llm.provider import Provider

PROVIDERS: Final[Mapping[Shape, Provider]] = {each.shape: each for each in (OpenAiChat(), Anthropic())}
