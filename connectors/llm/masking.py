"""A provider's keys, out of whatever it or a library says: some quote what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connectors.llm.calls import Target

SECRET_CHARACTERS_MIN: Final = 6
"""A shorter one is no secret, and would be found in any text."""
MASKED: Final = "***"


class Mask:
    """Masks secrets as they are, and as JSON, a URL or Python's ``repr`` of bytes writes them."""

    def __init__(self, secrets: Iterable[str]) -> None:
        found = {form for secret in secrets for form in _forms(secret.strip())}
        # one within another would leave its rest
        self._forms = sorted((each for each in found if len(each) >= SECRET_CHARACTERS_MIN), key=len)[::-1]

    @classmethod
    def of(cls, target: Target) -> Mask:
        """Give that of all which is sent to a provider to show who asks."""
        return cls([target.api_key, *target.headers.values()])

    def __call__(self, text: str) -> str:
        """Give a text without the secrets; of one that is cut (``…``), without the beginning of one, too."""
        for form in self._forms:
            text = text.replace(form, MASKED)
        if text.endswith("…"):
            text = self._without_begun(text[:-1]) + "…"
        return text

    def _without_begun(self, text: str) -> str:
        for form in self._forms:
            for size in range(len(form) - 1, SECRET_CHARACTERS_MIN - 1, -1):
                if text.endswith(form[:size]):
                    return text[:-size] + MASKED
        return text


def _forms(secret: str) -> Iterable[str]:
    """Give a secret's ways of being written; of ``Bearer abc`` a provider repeats ``abc``."""
    for each in (secret, *secret.split()[1:]):
        yield each
        yield orjson.dumps(each).decode()[1:-1]
        yield quote(each, safe="")
        yield repr(each.encode())[2:-1]
