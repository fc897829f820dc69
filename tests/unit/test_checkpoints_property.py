"""Windows, values that expire, what was seen and the watermark against plain dicts, over units of work that
end at any step, and processes that are killed, cut, lost and restored.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from state.dedupe import Seen, SeenOptions
from state.keyvalue import KeyValueOptions, KeyValues
from state.watermark import Watermark
from state.windows import TimeWindows, WindowOptions
from tests.unit.support_checkpoints import FAILS, KEYS, MS, PARTS, SAID, TIMES, Checkpoints, Model

WINDOWS = TimeWindows(b"w", WindowOptions(window_ms=10, grace_ms=5, ttl_ms=20, advance_ms=5))
VALUES, SEEN = KeyValues(b"v", KeyValueOptions(ttl_ms=20)), Seen(b"s", SeenOptions(ttl_ms=20))


@dataclass
class Expiring(Model):
    """What one partition should hold."""

    raw: dict[bytes, bytes] = field(default_factory=dict)
    values: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    windows: Counter[tuple[int, bytes]] = field(default_factory=Counter)
    seen: dict[bytes, int] = field(default_factory=dict)


class Expiries(Checkpoints):
    MODEL = Expiring

    @rule(number=PARTS, key=KEYS, value=st.binary(max_size=3), fails=FAILS)
    def put(self, number, key, value, fails):
        def act(scope, model):
            scope.state.put(b"r" + key, value)
            model.raw[key] = value

        self.step(number, act, fails=fails)

    @rule(number=PARTS, key=KEYS)
    def delete(self, number, key):
        def act(scope, model):
            scope.state.delete(b"r" + key)
            model.raw.pop(key, None)

        self.step(number, act)

    @rule(number=PARTS, key=KEYS, ahead_us=TIMES, fails=FAILS)
    def write_what_expires(self, number, key, ahead_us, fails):
        def act(scope, model):
            time_us = max(model.now_us, 0) + ahead_us // 4
            value = b"%d" % model.position
            VALUES.put(scope.state, time_us, key, value)
            until_us = max(time_us + 20 * MS, model.values.get(key, (0, b""))[0])
            model.values[key] = (until_us, value)
            is_new = model.seen.get(key, 0) <= model.now_us or key not in model.seen
            assert SEEN.add(scope.state, time_us, key, model.now_us) == is_new
            if is_new:
                model.seen[key] = time_us + 20 * MS

        self.step(number, act, fails=fails)

    @rule(number=PARTS, key=KEYS, time_us=TIMES, fails=FAILS)
    def add_to_windows(self, number, key, time_us, fails):
        def act(scope, model):
            starts = WINDOWS.add(
                scope.state, time_us, key, model.now_us, lambda value: b"%d" % (int(value or 0) + 1)
            )
            assert starts == [at for at in WINDOWS.starts_us(time_us) if at + 15 * MS > model.now_us]
            model.windows.update((at, key) for at in starts)

        self.step(number, act, fails=fails)

    @rule(number=PARTS, us=st.integers(0, 20 * MS), limit=st.integers(1, 3), early=st.booleans(), fails=FAILS)
    def time_passes(self, number, us, limit, early, fails):
        def act(scope, model):
            clock = Watermark(0)
            clock.load(scope.state, b"c")
            assert clock.now_us == model.now_us, "time is where it was left"
            clock.tick(max(clock.max_us, 0) + us)
            model.now_us = clock.now_us
            clock.save(scope.state, b"c")
            if early:  # what was not closed is not deleted
                WINDOWS.expire(scope.state, clock.now_us, 9)
            while found := WINDOWS.closed(scope.state, clock.now_us, limit):
                for window in found:
                    said = b"%d %s %s" % (window.start_us, window.key, window.value)
                    scope.emit(SAID, b"k", said, partition=number)
                    model.said.append(said)
                    assert int(window.value) == model.windows[window.start_us, window.key]
            WINDOWS.expire(scope.state, clock.now_us, limit)
            for key, value in VALUES.expire(scope.state, clock.now_us, limit):
                until_us, expected = model.values.pop(key)
                assert until_us <= clock.now_us
                assert value == expected
            SEEN.expire(scope.state, clock.now_us, limit)

        self.step(number, act, fails=fails)

    def compare(self, number, view, model):
        raw = {key[1:]: value for key, value in view.scan(b"r", b"s", 1_000)}
        assert raw == model.raw
        for key, (until_us, value) in model.values.items():
            assert VALUES.get(view, key, model.now_us) == (value if until_us > model.now_us else None)
        for key, until_us in model.seen.items():
            assert SEEN.knows(view, key, model.now_us) == (until_us > model.now_us)
        for (start_us, key), count in model.windows.items():
            if not WINDOWS.is_forgotten(start_us, model.now_us):
                assert WINDOWS.get(view, start_us, key) == b"%d" % count


TestExpiries = Expiries.TestCase
TestExpiries.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
