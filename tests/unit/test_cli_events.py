"""Lines become events: a log for each, and progress where it shows."""

from __future__ import annotations

from ops.execution.events import Happening, OutputEvents


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def read(*chunks: bytes, clock: Clock | None = None, every_s: float = 1.0) -> list[Happening]:
    clock = clock or Clock()
    events, found = OutputEvents("stdout", clock), []
    for chunk in chunks:
        found += events.feed(chunk)
        clock.now_s += every_s
    return found + list(events.finish())


def progress(events: list[Happening]) -> list[object]:
    return [event.payload["done"] for event in events if event.type == "progress"]


def lines(events: list[Happening]) -> list[object]:
    return [event.payload["line"] for event in events if event.type == "log"]


def test_a_line_is_a_log_with_its_level_and_output() -> None:
    (event,) = read(b"ERROR: no\n")
    assert event == Happening("log", {"level": "error", "stream": "stdout", "line": "ERROR: no"})


def test_a_line_that_counts_is_a_log_and_progress_and_the_same_count_is_told_once() -> None:
    events = read(b"[1/3] a\n[1/3] b\n[2/3] c\n")
    assert lines(events) == ["[1/3] a", "[1/3] b", "[2/3] c"]
    assert progress(events) == [1, 2]


def test_a_bar_is_progress_alone_and_no_flood_of_lines() -> None:
    events = read(*(b"\r%d%%" % n for n in range(5)), b"\rall done\n")
    assert lines(events) == ["all done"]
    assert progress(events) == [0, 1, 2, 3, 4]


def test_a_fast_bar_is_thinned_out_and_its_last_state_is_kept() -> None:
    events = read(*(b"\r%d%%" % n for n in range(101)), b"\n", every_s=0.001)
    assert progress(events)[-1] == 100
    assert len(progress(events)) < 10


def test_a_bar_that_ends_with_the_output_is_not_forgotten() -> None:
    assert progress(read(b"10%\r", b"20%\r", every_s=0.001)) == [10, 20]


def test_text_that_is_overwritten_but_no_bar_is_kept_as_a_line() -> None:
    assert lines(read(b"checking\rdone\n")) == ["checking", "done"]


def test_blanks_that_wipe_a_bar_are_no_line() -> None:
    assert lines(read(b"50%\r      \rready\n")) == ["ready"]


def test_a_line_that_is_too_long_for_one_event_says_that_it_goes_on() -> None:
    events = read(b"z" * 150_000 + b"\nshort\n")
    assert [event.payload.get("partial", False) for event in events] == [True, True, False, False]
    assert "".join(str(line) for line in lines(events)) == "z" * 150_000 + "short"
