"""How far a rewrite came, as its group's committed metadata says it."""

from __future__ import annotations

import pytest

from connectors.kafka.rewrite import Progress

BROKER_TAKES_BYTES = 4_096  # offset.metadata.max.bytes by default


@pytest.mark.parametrize("start", [b"", b"\x00", b"tenant/\xff\x00", bytes(2_048)])
def test_the_key_to_go_on_from_is_read_as_it_was_written(start):
    came = Progress(7, whole=False, start=start)
    assert Progress.of(7, came.metadata) == came


def test_of_a_key_too_long_for_the_broker_the_beginning_is_kept_so_that_nothing_is_passed_over():
    key = b"k" * 100_000
    came = Progress(7, whole=False, start=key)
    assert len(came.metadata) <= BROKER_TAKES_BYTES
    assert Progress.of(7, came.metadata).start <= key


def test_a_whole_one_is_whole_and_none_begins_at_the_first():
    assert Progress.of(7, Progress(7, whole=True, start=b"k").metadata) == Progress(7, whole=True)
    assert Progress.of(-1001, "") == Progress(0, whole=False)
