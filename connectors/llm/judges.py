"""A user's own gate: a function that says what is shown in place of a piece of an answer."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol

from connectors.llm.errors import RouteRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from connectors.llm.deltas import Channel

JUDGE_MS_MAX: Final = 50
"""While it runs, every call of its worker waits: one that takes longer has failed."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a function is asked about."""

    due: str
    """What is to be shown now; the rules have been through it."""
    ahead: str
    """What is held back behind it, and will be asked about next: it may change what ``due`` means."""
    shown: str
    """The latest of what was shown before, at most 512 characters of its block."""
    channel: Channel
    last: bool
    """Whether the block ends with it."""
    tool: str = ""
    """Which tool is called; ``due`` are all of its arguments then, as JSON text."""


@dataclass(frozen=True, slots=True)
class Instead:
    """What is shown in place of so many characters of ``due + ahead``, at least those that are due."""

    text: str
    characters: int


@dataclass(frozen=True, slots=True)
class End:
    """The answer must not go on; nothing of ``due`` is shown."""

    reason: str


class Judge(Protocol):
    """A gate in code, one for all answers.

    It is part of the worker: it must not wait (no network, no file), and 50 ms are its bound. One that
    raises, takes longer or gives anything else ends the attempt with error class ``gate``.
    """

    def __call__(self, held: Held, /) -> str | Instead | End:
        """Say what is shown: ``held.due``, a text in its place, ``Instead`` of more than that, or ``End``."""
        ...


def load_judges(names: Iterable[str]) -> Mapping[str, Judge]:
    """Import the functions (``module:name``) that routes may name. Raises RouteRefused.

    Which they are is the worker's own setting: what is written to a topic must not choose what is imported.
    """
    return {name: _load(name) for name in names}


def _load(name: str) -> Judge:
    module, colon, attribute = name.partition(":")
    remedy = "Name it as module:name, and start the worker where the module can be imported."
    if not colon or not module or not attribute:
        raise RouteRefused(f"gate function {name!r} is not module:name", remedy=remedy)
    try:
        judge = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RouteRefused(f"gate function {name}: {error}", remedy=remedy) from None
    if not callable(judge):
        raise RouteRefused(f"gate function {name} is no function", remedy=remedy)
    return judge  # type: ignore[no-any-return]  # what it gives is checked each time
