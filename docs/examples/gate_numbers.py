"""A gate of one's own: our telephone numbers may be said, others may not; an insult ends the answer."""

from __future__ import annotations

import re

from connectors.llm.judges import End, Held, Instead

OURS = {"555-0100", "555-0101"}
NUMBER = re.compile(r"\b\d{3}-\d{4}\b")
INSULT = re.compile(r"\byou idiot\b", re.IGNORECASE)


def judge(held: Held) -> str | Instead | End:
    """Say what is shown of what is due, and of a number that begins there and ends behind it."""
    text, due = held.due + held.ahead, len(held.due)
    if INSULT.search(held.shown[-16:] + text):
        return End("insult")
    shown, at = "", 0
    for number in NUMBER.finditer(text):
        if number.start() >= due:
            break  # it is asked about again once it is due
        shown += text[at : number.start()] + (number[0] if number[0] in OURS else "[number removed]")
        at = number.end()
    return Instead(shown + text[at:due], max(at, due))
