"""The gate between a provider and a stream: a piece of an answer is held back, judged, and passes or not.

1. Text waits until so many characters stand behind it, or for so long: rules then see what stands around it.
2. Calls of tools wait until the answer is over: rules see the tool's name and each value of the arguments. A
   call's own name in which a rule matches is shown as one of ours. Of an answer that broke off, or that its
   provider cut short by a filter, what waits is dropped: what would have come may be what a rule is about. Of
   a refusal the words in its own channel are all there.
3. Each rule's matches are counted, rewritten, or end the answer, whose text before the match still goes out.
4. A user's function says what is shown of what the rules left.
5. Another block or a picture settles the text that waits, and follows it. Sound goes beside the text that it
   says, and settles nothing. Of both nothing is judged but where they are kept, as text.

Pure: time is what the caller says it is, and ``due_s`` when it should ``tick``.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_plus

from connectors.llm.deltas import REFERENCE_CHARACTERS_MAX, Failed, Media, Piece
from connectors.llm.errors import RouteRefused
from connectors.llm.gate_calls import CALLS_MAX, CHARACTERS_MAX, HeldCalls, by_value, in_pieces
from connectors.llm.judges import JUDGE_MS_MAX, End, Held, Instead
from connectors.llm.patterns import LOOKS_MAX, Looks, TooManyLooks, scalar
from connectors.llm.rules import HOLD_CHARACTERS_MAX, Passage, Rule, parse_rules
from schemas.envelope import UPSTREAM_BYTES_MAX, fitting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from connectors.llm.deltas import Channel
    from connectors.llm.judges import Judge
    from connectors.llm.plan import GateOptions

BLOCKS_MAX: Final = 64
"""Blocks of one answer that are remembered when others come between; beyond them the first is forgotten."""
SUMMARY_CHARACTERS_MAX: Final = 1_024
_TOO_LONG: Final = f"its rules take more than {LOOKS_MAX} looks at once"
_TOO_MUCH: Final = (
    f"a call of a tool has more than {CHARACTERS_MAX} characters, or there are {CALLS_MAX} at once"
)


Shows = Piece | Media | Failed
"""What a gate gives."""


class _Ends(Exception):
    """A rule ends the answer."""


@dataclass(frozen=True, slots=True)
class GateRules:
    """A gate's configuration, checked and compiled; safe to share between calls."""

    rules: Sequence[Rule]
    hold_characters: int
    hold_s: float | None
    channels: frozenset[Channel]
    judge: Judge | None
    judge_name: str = ""
    drops_media: bool = False

    def of(self, channel: Channel) -> Sequence[Rule]:
        """Give the rules that are about a channel."""
        return tuple(rule for rule in self.rules if channel in rule.channels)


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
    rules = parse_rules(options.rules)
    for name, _, _, *channels in options.rules:
        if beyond := {*chain(*channels)} - _passing(options):
            raise RouteRefused(
                f"gate: rule {name} is about {', '.join(sorted(beyond))}, which does not pass the gate",
                remedy="Set reasoning or tools to true, or name channels that pass.",
            )
    return rules


def _passing(options: GateOptions) -> frozenset[Channel]:
    passes: dict[Channel, bool] = {
        "text": True, "refusal": True, "reasoning": options.reasoning, "tool": options.tools,
    }  # fmt: skip
    return frozenset(channel for channel, does in passes.items() if does)


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
    return GateRules(
        rules,
        options.hold_characters,
        options.hold_ms / 1_000 if options.hold_ms else None,
        _passing(options),
        judges[options.function] if options.function else None,
        options.function,
        options.media == "drop",
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
        self._calls = HeldCalls()
        self._named: dict[tuple[str, str], tuple[str, str]] = {}
        """Names of calls and their tools, as they came, to what is shown of them."""
        self._shown = ""
        self._counts: Counter[str] = Counter()
        self._rewritten = False
        self._dropped = 0
        """Characters that were held back of an answer that broke off, and are nobody's."""
        self._ended: str | None = None

    def take(self, delta: Piece | Media, now_s: float) -> Sequence[Shows]:
        """Take content at a monotonic time; give what may go out, of it and of what waited."""
        if self._ended is not None:
            return ()
        if isinstance(delta, Media):
            if self._gate.drops_media:
                self._counts["media"] += 1
                self._rewritten = True
                return ()
            return self._take_media(delta)
        if delta.channel in self._gate.channels:
            return self._take_call(delta, now_s) if delta.channel == "tool" else self._take_text(delta, now_s)
        out = self._settle_text()
        return out if self._ended is not None else (*out, delta)

    @property
    def due_s(self) -> float | None:
        """When to ``tick``; None = nothing waits for a time."""
        if self._block is None or self._gate.hold_s is None or self._ended is not None:
            return None
        oldest_s = self._blocks[self._block].oldest_s
        return None if oldest_s is None else oldest_s + self._gate.hold_s

    def tick(self, now_s: float) -> Sequence[Shows]:
        """Give what has waited for long enough."""
        due_s = self.due_s
        if self._block is None or self._gate.hold_s is None or due_s is None or now_s < due_s:
            return ()
        passage = self._blocks[self._block]
        return self._release(passage, passage.waited(now_s, self._gate.hold_s), last=False)

    def finish(self, *, whole: bool = True, refusal: bool = False) -> Sequence[Shows]:
        """Give all that waits: the answer is over.

        If it is not ``whole``, that is dropped, but for a ``refusal``'s own words.
        """
        if not whole:
            if not (refusal and self._block is not None and self._block[0] == "refusal"):
                self._drop_text()
            self._dropped += self._calls.drop()
        out = self._settle_text()
        return out if self._ended is not None else (*out, *self._settle_calls())

    def _drop_text(self) -> None:
        if self._block is not None and self._ended is None:
            self._dropped += self._blocks.pop(self._block).held
            self._block, self._shown = None, ""

    def _settle_text(self) -> Sequence[Shows]:
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
        counts += f" dropped={self._dropped}" if self._dropped else ""
        return f"{said}{counts}"[:SUMMARY_CHARACTERS_MAX]

    def _take_call(self, piece: Piece, now_s: float) -> Sequence[Shows]:
        before = self._settle_text()
        if self._ended is not None:
            return before
        alive = self._calls.take(piece, now_s)
        if self._calls.too_much:
            return (*before, *self._end(_TOO_MUCH))
        return (*before, *(sign for call in alive for sign in self._sign(call)))

    def _sign(self, call: Piece) -> Sequence[Shows]:
        """Give a sign of life of a call that is held, which names it if that may be said already."""
        call, reason = self._call_by_rules(call, Looks())
        if reason is not None:
            return self._end(reason)
        judged = call.tool and self._gate.judge is None  # a function sees the name with the arguments
        return (call if judged else Piece("text", ""),)

    def _settle_calls(self) -> Sequence[Shows]:
        """Let go of the calls that are held, as rules and function have them."""
        out: list[Shows] = []
        looks = Looks()
        for call in self._calls.release():
            shown, reason = self._call_by_rules(call, looks)
            if reason is None and self._gate.judge is not None:
                held = Held(shown.text, "", "", "tool", last=True, tool=shown.tool)
                arguments, _, reason = self._by_judge(self._gate.judge, held)
                shown = replace(shown, text=arguments)
            if reason is not None:
                return [*out, *self._end(reason)]
            out += in_pieces(shown)
        return out

    def _call_by_rules(self, call: Piece, looks: Looks) -> tuple[Piece, str | None]:
        """Give what the rules leave of a call, and why the answer ends if it does."""
        rules, arguments = self._gate.of("tool"), scalar(call.text)
        if not rules:
            return replace(call, text=arguments), None
        try:
            call_id, tool = self._names_by_rules(call, rules, looks)
            if arguments:
                arguments = by_value(arguments, lambda text: self._judged(text, rules, looks))
        except _Ends as ends:
            return call, str(ends)
        except TooManyLooks:
            return call, _TOO_LONG
        return replace(call, text=arguments, call_id=call_id, tool=tool), None

    def _names_by_rules(self, call: Piece, rules: Sequence[Rule], looks: Looks) -> tuple[str, str]:
        """Give what is shown of a call's own name and its tool's. Raises _Ends, TooManyLooks."""
        came = call.call_id, call.tool
        if came not in self._named:
            tool = fitting(self._judged(call.tool, rules, looks), UPSTREAM_BYTES_MAX)
            try:
                call_id = self._judged(call.call_id, rules, looks)
            except _Ends:  # digits that nobody chose are no reason
                call_id = ""
            if call_id != call.call_id:
                self._rewritten = True
                known = (shown for (one, _), (shown, _) in self._named.items() if one == call.call_id)
                call_id = next(known, f"gated_{len(self._named)}")
            self._named[came] = call_id, tool
        return self._named[came]

    def _judged(self, text: str, rules: Sequence[Rule], looks: Looks) -> str:
        """Give what rules leave of a text that stands by itself. Raises _Ends, TooManyLooks."""
        looks.spend(len(rules))
        if not any(rule.pattern.matches(text) for rule in rules):
            return text
        passage = Passage(rules, self._gate.hold_characters)
        passage.add(text, 0.0)
        shown, reason = self._by_rules(passage, passage.end, looks)
        if reason is not None:
            raise _Ends(reason)
        return shown

    def _take_media(self, media: Media) -> Sequence[Shows]:
        before = () if media.mime.startswith("audio/") else self._settle_text()
        if self._ended is not None:
            return before
        if not media.reference:
            return (*before, media)
        try:
            reference, reason = self._reference_by_rules(scalar(media.reference), Looks()), ""
        except _Ends as ends:
            reference, reason = "", str(ends)
        except TooManyLooks:
            reference, reason = "", _TOO_LONG
        if reason:
            before = (*before, *self._settle_text())
            return before if self._ended is not None else (*before, *self._end(reason))
        shown = replace(media, reference=reference[:REFERENCE_CHARACTERS_MAX])
        return (*before, shown) if shown.reference or shown.data else before

    def _reference_by_rules(self, reference: str, looks: Looks) -> str:
        """Give what the rules leave of an address, as it says and as it is written. Raises as ``_judged``."""
        rules, said = self._gate.of("text"), unquote_plus(reference)
        shown = self._judged(said, rules, looks)
        return shown if shown != said else self._judged(reference, rules, looks)

    def _end(self, reason: str) -> Sequence[Shows]:
        """End the answer: nothing follows."""
        self._ended = reason
        self._blocks.clear()
        self._calls.drop()
        return (Failed("gate", reason),)

    def _take_text(self, piece: Piece, now_s: float) -> Sequence[Shows]:
        block = piece.channel, piece.index
        if piece.channel == "refusal" and self._block is not None and self._block[0] == "text":
            self._drop_text()  # its provider cut it short
        before = self._settle_text() if self._block not in (None, block) else ()
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
        return Passage(self._gate.of(channel), self._gate.hold_characters, before)

    def _release(self, passage: Passage, upto: int, *, last: bool) -> Sequence[Shows]:
        """Let go of the block's text up to a place, as rules and function have it."""
        try:
            due, reason = self._by_rules(passage, upto, Looks())
        except TooManyLooks:
            due, reason = "", _TOO_LONG
        out: list[Shows] = []
        assert self._block is not None
        channel, index = self._block
        if due and self._gate.judge is not None:
            held = Held(due, passage.text(passage.released), self._shown, channel, last)
            due, further, judged = self._by_judge(self._gate.judge, held)
            passage.released += further
            reason = reason if judged is None else judged
        if due:
            out.append(Piece(channel, due, index))
            if self._gate.judge is not None:
                self._shown = (self._shown + due)[-HOLD_CHARACTERS_MAX:]
        passage.forget()
        return out if reason is None else [*out, *self._end(reason)]

    def _by_rules(self, passage: Passage, upto: int, looks: Looks) -> tuple[str, str | None]:
        """Give what the rules leave of the text up to a place, and why the answer ends if it does.

        Raises:
            TooManyLooks: nothing of it was judged.
        """
        parts: list[str] = []
        for match in passage.matches(upto, looks):
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

    def _by_judge(self, judge: Judge, held: Held) -> tuple[str, int, str | None]:
        """Ask the function.

        Returns:
            What it shows in place of what is due and of some characters ahead, how many these are, and why
            the answer ends if it does.
        """
        name, due, further = self._gate.judge_name, held.due, 0
        began_s = self._clock()
        try:
            shown = judge(held)
        except Exception as error:  # noqa: BLE001  # whatever a user's code raises; its words may hold the text
            return "", 0, f"function {name} raised {type(error).__name__}"
        if (took_ms := (self._clock() - began_s) * 1_000) > JUDGE_MS_MAX:
            return "", 0, f"function {name} took {took_ms:.0f} ms, at most {JUDGE_MS_MAX}"
        if isinstance(shown, End):
            self._counts["function"] += 1
            return "", 0, str(shown.reason)[:200]
        if isinstance(shown, Instead):
            further = shown.characters - len(due)
            if not 0 <= further <= len(held.ahead):
                return "", 0, f"function {name} spoke of {shown.characters} characters, and has others"
            due, shown = due + held.ahead[:further], shown.text
        if not isinstance(shown, str):
            return "", 0, f"function {name} gave {type(shown).__name__}, not str, Instead or End"
        if shown != due:
            self._counts["function"] += 1
            self._rewritten = True
        return shown, further, None
