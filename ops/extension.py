"""The agents of the folder that the settings name, for the commands that need them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ops.settings import Settings
    from pipelines.errors import AgentRefused
    from pipelines.extension import Extension


def extension_of(settings: Settings) -> Extension:
    """Load what SLUICEGATE_PIPELINES names; raises AgentRefused, or Misused where there is no such folder."""
    from pipelines.extension import refuse

    return _loaded(settings, refuse)


def extension_at_hand(settings: Settings) -> Extension:
    """Load what of SLUICEGATE_PIPELINES can be used, and warn once of each file that cannot.

    For who is on call: a file that was just broken must not take away the commands that look at roles and
    hold them. Raises Misused where there is no such folder.
    """
    return _loaded(settings, _warn_once)


def _loaded(settings: Settings, refused: Callable[[AgentRefused], None]) -> Extension:
    from ops.errors import Misused
    from pipelines.extension import load

    if settings.pipelines is not None and not settings.pipelines.is_dir():
        raise Misused(f"{settings.pipelines}: there is no such folder", "correct SLUICEGATE_PIPELINES")
    return load(settings.pipelines, refused)


_warned: set[str] = set()


def _warn_once(error: AgentRefused) -> None:
    from ops import console

    if str(error) not in _warned:
        _warned.add(str(error))
        console.warn(f"left out, as it cannot be used: {error}")
