"""Stores are closed at the end of a role, but not under a unit of work that did not end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from connectors.kafka.options import KafkaOptions
from pipelines.app import assemble, tools_of
from pipelines.extension import Extension
from pipelines.options import WorkerOptions
from schemas.catalog import LocalSchemas


@pytest.mark.parametrize("abandoned", [False, True])
def test_stores_are_closed_unless_the_last_unit_was_left_behind(tmp_path, abandoned: bool):  # noqa: FBT001
    options = WorkerOptions(KafkaOptions("127.0.0.1:1"), "http://127.0.0.1:1", None, tmp_path)
    mine = Extension(roles={"mine": [lambda *_: None]})
    app: Any = assemble("mine", options, mine, tools_of(mine, LocalSchemas()), web={"web_enabled": False})
    closed = []
    app.engine.partitions = SimpleNamespace(close_stores=lambda: closed.append(True))
    app.coordinator_or_none = SimpleNamespace(abandoned=abandoned)
    app._close()
    assert closed == [True] * (not abandoned)
