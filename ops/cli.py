"""The command line: one app, a module a command, one way to report an error."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError

from ops import console

if TYPE_CHECKING:
    from collections.abc import Sequence

OK, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130

# In the order of a first day: see it run, bring your own, run the parts, look after them.
COMMANDS = (
    "demo",
    "execute",
    "publish",
    "tail",
    "record",
    "replay",
    "stack",
    "preflight",
    "worker",
    "edge",
    "llm",
    "new",
    "schemas",
    "topics",
    "topology",
    "reprocess",
    "lag",
    "dlq",
    "levers",
    "asides",
    "losses",
    "tokens",
    "connections",
    "deliveries",
)

EPILOGUE = """\
Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 something needed cannot be reached, \
4 code that does not fit what is deployed (starting it again changes nothing), 130 Ctrl-C; \
0 of what runs until it is stopped, as worker and edge do. \
Settings are environment variables SLUICEGATE_GROUP__NAME. \
--debug before the command shows where an error was raised.
"""


def _version() -> str:
    try:
        return version("sluicegate")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "unknown"


def build_app() -> App:
    """Make the app with every command registered; none imports more than its own help needs."""
    app = App(
        name="sluicegate",
        help="Streams between services and the people who wait for them.",
        help_epilogue=EPILOGUE,
        version=_version,
        help_format="markdown",
    )
    for name in COMMANDS:
        import_module(f"ops.commands.{name}").register(app)
    return app


def prepare(tokens: Sequence[str]) -> tuple[bool, list[str]]:
    """Take ``--debug`` from before the command, and give ``-`` the name of the file that it stands for.

    The parser takes a lone dash for an option. What follows ``--`` is a command of the user's: untouched.
    """
    debug = bool(tokens) and tokens[0] == "--debug"
    words = list(tokens[1:] if debug else tokens)
    ours = words.index("--") if "--" in words else len(words)
    return debug, ["/dev/stdin" if word == "-" else word for word in words[:ours]] + words[ours:]


def run(tokens: Sequence[str]) -> int:
    """Run one command line and give its exit code; errors are printed as one message with a remedy."""
    debug, words = prepare(tokens)
    try:
        result = build_app()(
            words, exit_on_error=False, print_error=True, result_action="return_int_as_exit_code_else_zero"
        )
    except CycloptsError:
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return OK  # the reader of a pipe left, as `| head` does: nothing went wrong
    except Exception as error:  # noqa: BLE001  # the last place that can speak to the user
        return console.report(error, debug=debug)
    return int(result)


def main() -> None:
    """Console script ``sluicegate``."""
    code = run(sys.argv[1:])
    console.abandon_unwritable()
    sys.exit(code)
