"""The agents of the folder that the settings name, for the commands that need them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ops.settings import Settings
    from pipelines.extension import Extension


def extension_of(settings: Settings) -> Extension:
    """Load what SLUICEGATE_PIPELINES names; raises AgentRefused, or Misused where there is no such folder."""
    from ops.errors import Misused
    from pipelines.extension import load

    if settings.pipelines is not None and not settings.pipelines.is_dir():
        raise Misused(f"{settings.pipelines}: there is no such folder", "correct SLUICEGATE_PIPELINES")
    return load(settings.pipelines)
