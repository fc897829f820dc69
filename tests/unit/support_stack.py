"""Settings of a stack in a folder of a test's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops.settings import KafkaSettings, PostgresSettings, RegistrySettings, Settings, StackSettings

if TYPE_CHECKING:
    from pathlib import Path


def settings_in(folder: Path, **stack: object) -> Settings:
    """Settings free of what the environment says of addresses."""
    return Settings(
        data_dir=folder / "data",
        cache_dir=folder / "cache",
        kafka=KafkaSettings(),
        registry=RegistrySettings(),
        postgres=PostgresSettings(),
        stack=StackSettings.model_validate(stack),
    )
