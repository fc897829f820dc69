"""An event that ends the process, by a real worker that is started again each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.failing_deployment import Deployment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from ops.stack.addresses import Addresses

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def line(
    request: pytest.FixtureRequest, tmp_path: Path, stack: Addresses, kafka_options: KafkaOptions
) -> Iterator[Deployment]:
    """The deployment of the role that a test is parametrised with."""
    with Deployment(tmp_path, stack, kafka_options, request.param) as running:
        yield running


SLOW = pytest.mark.slow_fault


@pytest.mark.parametrize(
    ("line", "poison"),
    [
        pytest.param("batched", "segfault", id="batches"),
        pytest.param("lenient", "exit", id="events", marks=SLOW),
        pytest.param("lenient", "unreadable", id="decoding", marks=SLOW),
    ],
    indirect=["line"],
)
def test_an_event_that_ends_the_process_is_a_dead_letter_after_three_times_and_its_neighbours_are_handled(
    line: Deployment, poison: str
) -> None:
    line.run_worker()
    line.until_ready("worker")
    line.publish(1, *(f"before {n}" for n in range(100)), poison, *(f"after {n}" for n in range(100)))
    for partition in (0, 2, 3):
        line.publish(partition, *(str(n) for n in range(100)))

    # One more where an agent's crash falls together with the decoding of others: it is not told apart.
    assert line.supervise(lambda: line.letters_now() > 0) in (3, 4)
    found = line.outputs(500)
    assert found["key-1"] == [f"{when} {n}" for when in ("before", "after") for n in range(100)]
    assert all(found[f"key-{partition}"] == [str(n) for n in range(100)] for partition in (0, 2, 3))
    assert line.letters(1) == [(poison, 1, "ProcessDied", 3, 100)]


@SLOW
@pytest.mark.parametrize("line", ["strict"], indirect=True)
def test_an_event_that_ends_the_process_and_must_not_be_passed_over_has_its_partition_stand_still(
    line: Deployment,
) -> None:
    line.run_worker()
    line.until_ready("worker")
    line.publish(1, "before", "exit", "after")
    line.publish(0, "other")

    assert line.supervise(lambda: line.standstills() == [(1, 1)]) in (3, 4)
    assert line.outputs(2) == {"key-1": ["before"], "key-0": ["other"]}
    line.mended.touch()
    assert line.told("resume", "strict", "1", "--yes")["changed"] == ["strict/1"]
    assert line.outputs(4) == {"key-1": ["before", "exit", "after"], "key-0": ["other"]}
    assert line.supervise(lambda: True) == 0
