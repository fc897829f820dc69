"""The clock of all connections: what is due of one is done whatever another does."""

from __future__ import annotations

import asyncio

from edge.wheel import TimingWheel


class Due:
    """One that is looked at once, or breaks the first time."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.due_slot = -1
        self.looks = 0
        self._breaks = breaks

    def on_time(self, now_s: float) -> float:
        """See Timed."""
        self.looks += 1
        if self._breaks and self.looks == 1:
            raise RuntimeError("it was told to")
        return now_s + 60


def test_one_that_breaks_keeps_no_other_from_being_looked_at_and_is_looked_at_again():
    async def play() -> None:
        wheel, crowd = TimingWheel(0.01), [Due(breaks=number == 5) for number in range(10)]
        loop = asyncio.get_running_loop()
        wheel.start(loop)
        for one in crowd:
            wheel.put(one, loop.time() + 0.05)
        while not all(one.looks for one in crowd):  # noqa: ASYNC110  # nobody tells that it was looked at
            await asyncio.sleep(0.01)
        assert len(wheel) == len(crowd)
        while crowd[5].looks < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        wheel.stop()

    asyncio.run(asyncio.wait_for(play(), 30))
