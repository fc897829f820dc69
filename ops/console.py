"""What the commands print with, and how an error looks: what is wrong, and what to do."""

from __future__ import annotations

import os
import sys
import traceback
from functools import cache
from typing import TYPE_CHECKING, TextIO, cast

from rich.console import Console
from rich.text import Text

from ops.stderr import StandardError

if TYPE_CHECKING:
    from collections.abc import Mapping


# A file has no width; the 80 columns that are assumed for one would cut tables.
_PIPE_COLUMNS = 200


class _Results(Console):
    """Leaves a pipe that nobody reads any more to `ops/cli.py`; rich would exit with 1 here."""

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704  # rich calls this while it handles the BrokenPipeError


@cache
def out() -> Console:
    """Standard output: results only, so that a script can read it.

    What is printed holds keys, reasons and names that others chose: no text is markup, in cells of tables
    neither, and none is an emoji's name. Style is for `Text`.
    """
    console = _Results(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_COLUMNS)
    return console


@cache
def err() -> Console:
    """Standard error: progress, hints and errors. What cannot be written there is dropped."""
    file = cast("TextIO", StandardError())
    return Console(file=file, highlight=False, markup=False, emoji=False, soft_wrap=True)


def note(text: str) -> None:
    """Tell the person at the terminal something that is no result."""
    err().print(Text(text, style="dim"))


def warn(text: str, remedy: str = "") -> None:
    """Tell the person at the terminal of something that needs a look; nothing is lost."""
    _say(("warning: ", "bold yellow"), text, remedy)


def fail(text: str, remedy: str = "") -> None:
    """Print one error: what is wrong and, on a line of its own, what to do about it."""
    _say(("error: ", "bold red"), text, remedy)


def _say(what: tuple[str, str], text: str, remedy: str) -> None:
    err().print(Text.assemble(what, text))
    if remedy:
        err().print(Text.assemble(("  → ", "bold"), remedy))


def print_json(value: Mapping[str, object] | list[object]) -> None:
    """One JSON document on standard output, a line if it is an element of a stream."""
    import orjson

    sys.stdout.buffer.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


def report(error: Exception, *, debug: bool) -> int:
    """Print any error that reached the top and give the exit code that stands for it."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from ops.errors import Unreachable, exit_code_of
    from schemas.errors import SluicegateError

    if debug:
        traceback.print_exception(error)  # the plain one: the pretty one shows locals, which may be secrets
    if isinstance(error, ValidationError):
        for problem in error.errors(include_input=False, include_url=False):
            where = "SLUICEGATE_" + "__".join(str(part).upper() for part in problem["loc"])
            unknown = problem["type"] == "extra_forbidden"
            said = "there is no such setting" if unknown else problem["msg"].removeprefix("Value error, ")
            fail(f"settings: {where}: {said}", "correct this environment variable")
        return 2
    if isinstance(error, SettingsError):  # a group as a whole, which nobody needs to set
        group = str(error).partition('"')[2].partition('"')[0].upper()
        fail(
            f"settings: SLUICEGATE_{group} or a SLUICEGATE_{group}__… is no JSON object",
            f"set SLUICEGATE_{group}__NAME for each of it",
        )
        return 2
    if type(error).__name__ == "KafkaException" and "_INVALID_ARG" in str(error):  # by name: a connector's
        remedy = "correct SLUICEGATE_KAFKA__SECURITY_PROTOCOL, …__SASL_… and …__SSL_…"
        if "No provider for SASL mechanism GSSAPI" in str(error):
            remedy = (
                "the wheels of confluent-kafka come without Kerberos: build it against a librdkafka that has "
                "it (docs/security.md), or come in by another mechanism"
            )
        fail(f"Kafka's client does not take the settings: {error}", remedy)
        return 2
    if isinstance(error, SluicegateError):
        fail(str(error), error.remedy)
        return exit_code_of(error)
    if isinstance(error, OSError):
        fail(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        return Unreachable.exit_code if isinstance(error, ConnectionError) else 1
    fail(
        f"{type(error).__name__}: {error}",
        "this is a defect of sluicegate; run again as `sluicegate --debug …` to see where it is",
    )
    return 1


def abandon_unwritable() -> None:
    """Point what cannot be written nowhere, so that the interpreter's last flush changes no exit code."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
