"""What ought not to happen to one client, or one stream: it is the only one to which it happens."""

from __future__ import annotations

import pytest

from edge import core as core_module
from edge import slowing
from edge.slowing import Counts, Said
from tests.unit.support_pressure import KEY, Scene, backpressure, cursor_of, key_of, play, seqs_of, until


def breaks(_data: bytes) -> None:
    raise RuntimeError("it was told to")


@pytest.mark.parametrize("stands", ["abreast", "by itself"])
def test_one_that_cannot_be_written_to_is_cut_off_and_resumes_and_the_others_miss_nothing(stands):
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"))
        edge.emit()
        crowd = [await edge.reader() for _ in range(3)]
        channel = edge.core.hub.get(KEY)
        assert channel is not None
        (group,) = channel.all_groups()
        await until(lambda: len(group.members) == 3)
        if stands == "abreast":
            group.members[list(group.members)[1]] = breaks
        else:
            members = list(group.members)
            for member in members:
                member.stand_aside()
            members[1]._outlet.write = breaks
        edge.emit(2)
        await until(lambda: sum(seqs_of(one.data) == [0, 1, 2] for one in crowd) == 2)
        (broken,) = [one for one in crowd if seqs_of(one.data) == [0]]
        await until(lambda: edge.told.of("edge.connections.v1", action="closed", reason="broke"))
        assert broken.aborted
        await until(lambda: edge.core.connections == 2)
        back = edge.connect(cursor_of(broken.data))
        edge.emit()
        for one in crowd:
            if one is not broken:
                await until(lambda one=one: seqs_of(one.data) == [0, 1, 2, 3])
        assert back is not None
        await until(lambda: seqs_of(back.data) == [1, 2, 3])

    play(scene())


def test_a_sweep_that_breaks_is_not_the_last(monkeypatch):
    async def scene() -> None:
        monkeypatch.setattr(core_module, "_SWEEP_S", 0.01)
        edge, sweeps = Scene(backpressure("drop_old")), 0

        def sweep(_now_ms: int) -> bool:
            nonlocal sweeps
            sweeps += 1
            if sweeps == 1:
                raise RuntimeError("it was told to")
            return False

        monkeypatch.setattr(edge.core.hub, "sweep", sweep)
        await until(lambda: sweeps > 1)
        await edge.core.stop()

    play(scene())


def test_a_stream_that_cannot_be_weighed_holds_its_producer_back_no_longer_and_others_are_weighed(
    monkeypatch,
):
    monkeypatch.setattr(slowing, "TICK_S", 0.01)
    monkeypatch.setattr(slowing, "SETTLE_S", 0.05)

    async def scene() -> None:
        edge = Scene(backpressure("slow_producer"))
        await edge.slow()
        edge.open("t", "job")
        weigh = edge.core.slowing._weigh

        def weighed(key: bytes, press: slowing._Press, now_s: float) -> None:
            if key == KEY:
                raise RuntimeError("it was told to")
            weigh(key, press, now_s)

        monkeypatch.setattr(edge.core.slowing, "_weigh", weighed)
        edge.core.slowing.heard([(key_of("t"), "other", Said("other", "job", Counts(1, 1)))])
        await until(lambda: edge.core.slowing.of(key_of("t")) is not None)
        assert edge.core.slowing.of(KEY) is None

    play(scene())
