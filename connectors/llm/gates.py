"""The gate between a provider and a stream: a piece of an answer is held back, judged, and passes or not.

1. Text waits until so many characters stand behind it, or for so long: rules then see what stands around it.
2. Each rule's matches are counted, rewritten, or end the answer, whose text before the match still goes out.
3. A user's function says what is shown of what the rules left.
4. Another block, a tool call, media or a finish settles what waits, and follows it; usage, names and pings
   pass.

Pure: time is what the caller says it is, and ``due_s`` when it should ``tick``.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from connectors.llm.deltas import Alive, Failed, Named, Piece, Usage
from connectors.llm.errors import RouteRefused
from connectors.llm.judges import JUDGE_MS_MAX, End, Held, Instead
from connectors.llm.patterns import scalar
from connectors.llm.rules import HOLD_CHARACTERS_MAX, Passage, Rule, parse_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from connectors.llm.deltas import Channel, Delta
    from connectors.llm.judges import Judge
    from connectors.llm.plan import GateOptions

BLOCKS_MAX: Final = 64
"""Blocks of one answer that are remembered when others come between; beyond them the first is forgotten."""
SUMMARY_CHARACTERS_MAX: Final = 1_024


@dataclass(frozen=True, slots=True)
class GateRules:
    """A gate's configuration, checked and compiled; safe to share between calls."""

    rules: Sequence[Rule]
    hold_characters: int
    hold_s: float | None
    channels: frozenset[Channel]
    judge: Judge | None
    judge_name: str = ""


def check_gate(options: GateOptions) -> tuple[Rule, ...]:
    """Check all that can be checked anywhere, and give the rules. Raises RouteRefused, naming the rule."""
    hold = options.hold_characters
    if not 0 <= hold <= HOLD_CHARACTERS_MAX:
        raise RouteRefused(
            f"gate: hold_characters is {hold}, and can be 0 to {HOLD_CHARACTERS_MAX}",
            remedy="Hold back as many as the longest text has that a rule is about.",
        )
    if options.rules and not hold:
        raise RouteRefused(
            "gate: rules need hold_characters: what they match is no longer than what is held back",
            remedy="Set it to the length of the longest text that a rule is about.",
        )
    if options.hold_ms < 0:
        raise RouteRefused(
            f"gate: hold_ms is {options.hold_ms}", remedy="Set 0 for no bound, or milliseconds."
        )
    return parse_rules(options.rules)


def compile_gate(options: GateOptions, judges: Mapping[str, Judge]) -> GateRules:
    """Check and compile a gate's options; ``judges`` are the functions that it may name.

    Raises:
        RouteRefused: names what is wrong.
    """
    rules = check_gate(options)
    if options.function and options.function not in judges:
        raise RouteRefused(
            f"gate: this worker was not started with function {options.function}",
            remedy="Add it to SLUICEGATE_LLM__GATE_FUNCTIONS of every worker, or name one that is there.",
        )
    channels: set[Channel] = {"text", "refusal"}
    if options.reasoning:
        channels.add("reasoning")
    return GateRules(
        rules,
        options.hold_characters,
        options.hold_ms / 1_000 if options.hold_ms else None,
        frozenset(channels),
        judges[options.function] if options.function else None,
        options.function,
    )


class Gate:
    """The gate of one attempt.

    What it gives is passed on in order. If the last of it is ``Failed("gate", reason)``, the gate has ended
    the answer: the provider's connection can be closed, and the gate gives nothing any more.
    """

    def __init__(
        self, gate: GateRules, clock: Callable[[], float] = time.perf_counter, before: str = ""
    ) -> None:
        """``before`` is what an earlier attempt showed of the answer, with which this one goes on."""
        self._gate = gate
        self._clock = clock
        self._before = before[len(before) - min(gate.hold_characters, len(before)) :]
        self._blocks: dict[tuple[Channel, int], Passage] = {}
        self._block: tuple[Channel, int] | None = None
        self._shown = ""
        self._counts: Counter[str] = Counter()
        self._rewritten = False
        self._ended: str | None = None

    def take(self, delta: Delta, now_s: float) -> Sequence[Delta]:
        """Take a delta at a monotonic time; give what may go out, of it and of what waited."""
        if self._ended is not None:
            return ()
        if isinstance(delta, Piece) and delta.channel in self._gate.channels:
            return self._take_text(delta, now_s)
        if isinstance(delta, Usage | Named | Alive):
            return (delta,)
        out = self.finish()
        return out if self._ended is not None else (*out, delta)

    @property
    def due_s(self) -> float | None:
        """When to ``tick``; None = nothing waits for a time."""
        if self._block is None or self._gate.hold_s is None or self._ended is not None:
            return None
        oldest_s = self._blocks[self._block].oldest_s
        return None if oldest_s is None else oldest_s + self._gate.hold_s

    def tick(self, now_s: float) -> Sequence[Delta]:
        """Give what has waited for long enough."""
        due_s = self.due_s
        if self._block is None or self._gate.hold_s is None or due_s is None or now_s < due_s:
            return ()
        passage = self._blocks[self._block]
        return self._release(passage, passage.waited(now_s, self._gate.hold_s), last=False)

    def finish(self) -> Sequence[Delta]:
        """Give all that waits: the block is over."""
        if self._block is None or self._ended is not None:
            return ()
        passage = self._blocks[self._block]
        out = self._release(passage, passage.end, last=True)
        self._block, self._shown = None, ""
        return out

    def summary(self) -> str:
        """Say what it did, for the record: never what was matched, only how often by which rule."""
        said = "passed"
        if self._ended is not None:
            said = f"ended:{self._ended}"
        elif self._rewritten:
            said = "rewritten"
        counts = "".join(f" {name}={count}" for name, count in sorted(self._counts.items()))
        return f"{said}{counts}"[:SUMMARY_CHARACTERS_MAX]

    def _take_text(self, piece: Piece, now_s: float) -> Sequence[Delta]:
        block = piece.channel, piece.index
        before = self.finish() if self._block not in (None, block) else ()
        if self._ended is not None or not piece.text:
            return before
        passage = self._blocks.get(block)
        if passage is None:
            if len(self._blocks) >= BLOCKS_MAX:
                del self._blocks[next(iter(self._blocks))]
            passage = self._blocks[block] = self._begun(piece.channel)
        self._block = block
        passage.add(scalar(piece.text), now_s)
        return (*before, *self._release(passage, passage.end - self._gate.hold_characters, last=False))

    def _begun(self, channel: Channel) -> Passage:
        before = self._before if channel == "text" else ""
        if before:
            self._shown, self._before = before, ""
        return Passage(self._gate.rules, self._gate.hold_characters, before)

    def _release(self, passage: Passage, upto: int, *, last: bool) -> Sequence[Delta]:
        """Let go of the block's text up to a place, as rules and function have it."""
        due, reason = self._by_rules(passage, upto)
        out: list[Delta] = []
        assert self._block is not None
        channel, index = self._block
        if due and self._gate.judge is not None:
            due, judged = self._by_judge(self._gate.judge, due, passage, last=last)
            reason = reason if judged is None else judged
        if due:
            out.append(Piece(channel, due, index))
            if self._gate.judge is not None:
                self._shown = (self._shown + due)[-HOLD_CHARACTERS_MAX:]
        passage.forget()
        if reason is not None:
            self._ended = reason
            self._blocks.clear()
            out.append(Failed("gate", reason))
        return out

    def _by_rules(self, passage: Passage, upto: int) -> tuple[str, str | None]:
        """Give what the rules leave of the text up to a place, and why the answer ends if it does."""
        parts: list[str] = []
        for match in passage.matches(upto):
            self._counts[match.rule.name] += 1
            if match.rule.action == "pass":
                continue
            if match.start > passage.released:
                parts.append(passage.text(passage.released, match.start))
                passage.released = match.start
            if match.rule.action == "end":
                return "".join(parts), match.rule.text
            self._rewritten = True
            if match.end > passage.released:
                parts.append(match.rule.text)
                passage.released = match.end
        if upto > passage.released:
            parts.append(passage.text(passage.released, upto))
            passage.released = upto
        return "".join(parts), None

    def _by_judge(self, judge: Judge, due: str, passage: Passage, *, last: bool) -> tuple[str, str | None]:
        """Give what the function shows in place of ``due``, and why the answer ends if it does."""
        assert self._block is not None
        name = self._gate.judge_name
        held = Held(due, passage.text(passage.released), self._shown, self._block[0], last)
        began_s = self._clock()
        try:
            shown = judge(held)
        except Exception as error:  # noqa: BLE001  # whatever a user's code raises; its words may hold the text
            return "", f"function {name} raised {type(error).__name__}"
        if (took_ms := (self._clock() - began_s) * 1_000) > JUDGE_MS_MAX:
            return "", f"function {name} took {took_ms:.0f} ms, at most {JUDGE_MS_MAX}"
        if isinstance(shown, End):
            self._counts["function"] += 1
            return "", str(shown.reason)[:200]
        if isinstance(shown, Instead):
            further = shown.characters - len(due)
            if not 0 <= further <= len(held.ahead):
                return "", f"function {name} spoke of {shown.characters} characters, and has others"
            passage.released += further
            due, shown = due + held.ahead[:further], shown.text
        if not isinstance(shown, str):
            return "", f"function {name} gave {type(shown).__name__}, not str, Instead or End"
        if shown != due:
            self._counts["function"] += 1
            self._rewritten = True
        return shown, None
