"""What each policy does with clients that fall behind their kind's bound, over a transport in memory."""

from __future__ import annotations

import pytest

from tests.unit.support_pressure import (
    BOUND,
    KEY,
    Scene,
    backpressure,
    cursor_of,
    gaps_of,
    play,
    said,
    seqs_of,
    until,
)

POLICIES = ["drop_old", "drop_new", "terminate", "slow_producer"]


@pytest.mark.parametrize("ring", [4, 1_000])
@pytest.mark.parametrize("policy", POLICIES)
def test_one_that_stays_within_its_bound_misses_nothing_whatever_the_policy(policy, ring):
    async def scene() -> None:
        edge = Scene(backpressure(policy), ring_events_max=ring)
        edge.emit()
        slow = await edge.stalled()
        edge.emit(BOUND)
        slow.drain()
        await until(lambda: seqs_of(slow.data) == list(range(edge.next_seq)))
        assert gaps_of(slow.data) == []
        assert edge.counted("slow_dropped_events_total") == edge.counted("slow_closed_total") == 0

    play(scene())


@pytest.mark.parametrize("ring", [4, 1_000])
def test_drop_old_goes_on_with_the_newest_and_tells_of_the_oldest(ring):
    async def scene() -> None:
        edge = Scene(backpressure("drop_old"), ring_events_max=ring)
        edge.emit()
        slow = await edge.stalled()
        edge.emit(50)
        slow.drain()
        await until(lambda: edge.next_seq - 1 in seqs_of(slow.data))
        present = edge.next_seq
        assert seqs_of(slow.data) == [0, 1, *range(present - BOUND, present)]
        assert gaps_of(slow.data) == [(2, present - BOUND - 1, "slow")]
        edge.emit()
        await until(lambda: present in seqs_of(slow.data))
        assert edge.counted("slow_dropped_events_total") == present - BOUND - 2

    play(scene())


@pytest.mark.parametrize("ring", [4, 1_000])
def test_drop_new_gives_what_was_owed_up_to_the_bound_and_then_a_gap_to_the_present(ring):
    async def scene() -> None:
        edge = Scene(backpressure("drop_new"), ring_events_max=ring)
        edge.emit()
        slow = await edge.stalled()
        edge.emit(50)
        slow.drain()
        await until(lambda: gaps_of(slow.data))
        present = edge.next_seq
        assert seqs_of(slow.data) == list(range(2 + BOUND))
        assert gaps_of(slow.data) == [(2 + BOUND, present - 1, "slow")]
        edge.emit()
        await until(lambda: present in seqs_of(slow.data))
        assert edge.counted("slow_dropped_events_total") == present - BOUND - 2

    play(scene())


@pytest.mark.parametrize("policy", ["drop_old", "drop_new"])
def test_an_end_is_told_whatever_is_dropped_before_it(policy):
    async def scene() -> None:
        edge = Scene(backpressure(policy))
        edge.emit()
        slow = await edge.stalled()
        edge.emit(50, end=True)
        slow.drain()
        await until(slow.is_closing)
        assert said(slow.data)[-1]["type"] == "end"
        assert len(gaps_of(slow.data)) == 1

    play(scene())


@pytest.mark.parametrize("policy", ["drop_old", "drop_new"])
def test_bytes_are_a_bound_too(policy):
    async def scene() -> None:
        edge = Scene(backpressure(policy, behind_events_max=1_000, behind_bytes_max=1_000))
        edge.emit()
        slow = await edge.stalled()
        edge.emit(50, size_bytes=190)
        slow.drain()
        await until(lambda: gaps_of(slow.data))
        edge.emit()
        await until(lambda: edge.next_seq - 1 in seqs_of(slow.data))
        kept = len(seqs_of(slow.data)) - 3
        assert 4 <= kept <= 5  # of some 195 bytes each

    play(scene())


def test_terminate_lets_go_as_soon_as_the_bound_is_passed_and_the_client_resumes_without_a_hole():
    async def scene() -> None:
        edge = Scene(backpressure("terminate"), ring_events_max=4)
        edge.emit()
        slow, quick = await edge.stalled(), await edge.reader()
        edge.emit(BOUND)
        assert edge.counted("slow_closed_total") == 0
        edge.emit()
        assert edge.counted("slow_closed_total") == 1
        assert edge.core.hub.followers == 1
        slow.drain()
        await until(slow.is_closing)
        assert said(slow.data)[-1] | {"retry_ms": 0} == {"type": "reconnect", "reason": "slow", "retry_ms": 0}
        back = edge.connect(cursor_of(slow.data))
        assert back is not None
        await until(lambda: edge.next_seq - 1 in seqs_of(back.data))
        assert seqs_of(slow.data) + seqs_of(back.data) == list(range(edge.next_seq))
        await until(lambda: seqs_of(quick.data) == list(range(edge.next_seq)))

    play(scene())


def test_one_that_is_let_go_and_never_reads_is_aborted_as_slow():
    async def scene() -> None:
        edge = Scene(backpressure("terminate"), write_stall_ms_max=300)
        edge.emit()
        slow = await edge.stalled()
        edge.emit(BOUND + 1)
        await until(slow.is_closing)
        await until(lambda: edge.core.connections == 0)
        assert slow.aborted
        assert edge.core.metrics.closed.labels("sse", "slow")._value.get() == 1

    play(scene())


@pytest.mark.parametrize("policy", POLICIES)
def test_what_a_stalled_client_pins_is_one_write_however_much_comes(policy):
    async def scene() -> None:
        edge = Scene(backpressure(policy), ring_events_max=4)
        edge.emit()
        slow = await edge.stalled()
        pinned, writes = slow.get_write_buffer_size(), len(slow.written)
        edge.emit(5_000)
        assert (slow.get_write_buffer_size(), len(slow.written)) == (pinned, writes)

    play(scene())


@pytest.mark.parametrize("policy", POLICIES)
def test_one_that_still_reads_its_history_is_not_held_to_the_bound(policy):
    async def scene() -> None:
        edge = Scene(backpressure(policy), ring_events_max=4)
        edge.emit(2_500)
        late = edge.connect()
        assert late is not None
        late.full = True
        for _ in range(2):  # it is given a thousand at a time
            await until(lambda: late.get_write_buffer_size() > 0)
            edge.emit(2 * BOUND)
            late.drain()
            late.full = True
        late.drain()
        await until(lambda: edge.next_seq - 1 in seqs_of(late.data))
        assert seqs_of(late.data) == list(range(edge.next_seq))

    play(scene())


def test_one_that_takes_nothing_of_the_goodbye_is_not_kept_as_one_that_fell_behind():
    async def scene() -> None:
        edge = Scene(backpressure("slow_producer"))
        edge.emit()
        out = await edge.reader()
        (connection,) = edge.core.clients
        out.full = True
        connection.send_away("drain")
        assert out.get_write_buffer_size() > 0
        edge.emit(5 * BOUND)
        channel = edge.core.hub.get(KEY)
        assert channel is not None
        assert not channel.laggards

    play(scene())
