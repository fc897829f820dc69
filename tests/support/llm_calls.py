"""Calls that a provider on loopback was sent, held to the ledger: each is an attempt's, and none has two."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from connectors.llm.ledger import Attempt
    from connectors.llm.loopback.seen import Seen


def check_on_record(seen: Iterable[Seen], rows: Iterable[Attempt]) -> None:
    """Hold calls to rows; the model of each names its stream: ``words?tokens=3&tag=STREAM``.

    An attempt whose worker died before it called has no call, one that came to a whole answer has one.
    """
    calls = _by_stream(seen)
    last = {(row.stream_id, row.attempt): row for row in rows}
    attempts: dict[str, list[Attempt]] = defaultdict(list)
    for _, row in sorted(last.items()):
        attempts[row.stream_id].append(row)
    assert calls.keys() <= attempts.keys(), "streams of which nothing is on record"
    for stream, made in attempts.items():
        left = list(calls.get(stream, ()))
        for row in made:
            its = [began_us for began_us in left if row.started_us <= began_us <= row.ended_us]
            assert len(its) <= 1, f"{row.key!r} is one call on record, and was {len(its)}"
            assert its or row.state != "completed", f"{row.key!r} is on record, and was no call"
            left = [began_us for began_us in left if began_us not in its]
        assert not left, f"{len(left)} calls of {stream} are of no attempt on record"


def _by_stream(seen: Iterable[Seen]) -> Mapping[str, Sequence[int]]:
    """Give when the calls of each stream came, but those that go on with an answer or end it."""
    calls: dict[str, list[int]] = defaultdict(list)
    for each in seen:
        if "stream=true" not in each.path and not each.path.endswith("/cancel"):
            (tag,) = parse_qs(each.model.partition("?")[2])["tag"]
            calls[tag].append(each.began_us)
    return calls
