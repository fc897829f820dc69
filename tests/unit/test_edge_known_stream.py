"""Streams that are asked about while the index is behind the output: written at once, but read in two."""

from __future__ import annotations

import asyncio

import pytest

from edge import control
from edge.control import known_stream
from edge.errors import RequestError
from tests.unit.support_pressure import Scene, backpressure, key_of

POLICY = backpressure("drop_old", then="drop_old")


def anybody(_tenant, _stream_id, _kind):
    return None


def test_who_has_an_event_of_a_stream_is_not_told_that_there_is_no_such_stream():
    async def scene():
        edge = Scene(POLICY)
        edge.emit()
        entry = edge.core.index.get(key_of("s"))
        edge.core.index.remove(key_of("s"))
        asked = asyncio.create_task(known_stream(edge.core, "default", "s", anybody))
        await asyncio.sleep(0.1)
        assert not asked.done()
        edge.core.index.put(key_of("s"), entry)
        assert await asked is entry

    asyncio.run(asyncio.wait_for(scene(), 20))


def test_an_entry_that_does_not_come_is_not_waited_for_for_ever_and_that_of_nobody_not_at_all(monkeypatch):
    monkeypatch.setattr(control, "_ENTRY_S", 0.1)

    async def scene():
        edge = Scene(POLICY)
        edge.emit()
        edge.core.index.remove(key_of("s"))
        with pytest.raises(RequestError, match="no stream default/s"):
            await known_stream(edge.core, "default", "s", anybody)
        monkeypatch.setattr(control, "_ENTRY_S", 3_600.0)
        with pytest.raises(RequestError, match="no stream default/nobody"):
            await known_stream(edge.core, "default", "nobody", anybody)

    asyncio.run(asyncio.wait_for(scene(), 20))
