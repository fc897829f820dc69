"""What a check before a start found, told to people or to programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops import console
from ops.errors import REFUSED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipelines.checks import Finding


def told(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print each finding as it is made, or all as one JSON document; return the exit code."""
    found = []
    for one in findings:
        found.append(one)
        if not as_json:
            state = "does not fit" if one.problem else "warning" if one.warning else "fits"
            after = f"  after {one.after}" if one.after else ""
            console.out().print(f"{state:<14}{one.what:<17}{one.role}{after}".rstrip())
            if detail := one.problem or one.warning:
                console.out().print(f"{'':<14}{detail}")
    fits = not any(one.problem for one in found)
    if as_json:
        console.print_json({"fits": fits, "found": [one._asdict() for one in found]})
    return 0 if fits else REFUSED
