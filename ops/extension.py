"""The agents of the folder that the settings name, for the commands that need them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ops.settings import Settings
    from pipelines.extension import Extension


def extension_of(settings: Settings) -> Extension:
    """Load what SLUICEGATE_PIPELINES names; raises AgentRefused."""
    from pipelines.extension import load

    return load(settings.pipelines)
