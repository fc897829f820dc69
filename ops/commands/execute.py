"""`sluicegate exec`: a command's output becomes a stream while it runs."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from cyclopts import App

    from ops.client import EdgeClient
    from ops.execution.run import ExecutionOptions, Outcome


def register(app: App) -> None:
    """Add the command to the app."""
    app.command(exec_command, name="exec")


def exec_command(
    *command: str,
    stream: str | None = None,
    kind: str = "log",
    tenant: str = "default",
    title: str = "",
    label: Annotated[list[str] | None, Parameter(negative=())] = None,
    pty: Annotated[bool, Parameter(negative=())] = False,
    strict: Annotated[bool, Parameter(negative=())] = False,
    quiet: Annotated[bool, Parameter(negative=())] = False,
    patience_s: float = 60.0,
    idle_timeout_s: float = 0.0,
) -> int:
    """Run a command and stream what it prints, line by line, as it appears.

    Every line of its standard output and error becomes a `log` event, progress that shows (`[12/340]`,
    `45%`) a `progress` event, and its exit a termination: `completed`, `upstream_error`, or `cancelled`
    on Ctrl-C or when a client cancels the stream. The output still goes to the terminal, and the
    command's exit code is passed on. A second Ctrl-C kills the command.

    Example: `sluicegate exec --stream build-42 -- make -j4`

    Parameters
    ----------
    command
        The command and its words; put `--` before it.
    stream
        Id of the stream; by default the command's name and a stamp.
    kind
        Kind of the stream: its policies.
    tenant
        Whose stream it is.
    title
        What a person sees; by default the command line, with what looks like a secret in it masked.
    label
        NAME=VALUE, as often as needed.
    pty
        Run the command on a terminal of its own: for one that holds its lines back in a pipe.
    strict
        Stop the command when its stream can no longer be delivered.
    quiet
        Do not show the command's output here.
    patience_s
        Seconds to go on while the edge is away. The command goes on after that; what could not be
        delivered is counted, and the exit code is 3 if the command's own was 0.
    idle_timeout_s
        Seconds without an event after which the stream is ended as timed out; 0 takes the kind's, and
        none is longer. A silent command says in time that it lives, so this is for one that is gone.
    """
    import asyncio
    import shlex

    from ops import console
    from ops.addresses import edge_token, edge_url
    from ops.client import EdgeClient
    from ops.errors import exit_code_of
    from ops.execution.run import ExecutionOptions
    from ops.settings import Settings
    from schemas.errors import SluicegateError
    from schemas.redaction import redacted

    if not command:
        console.fail("no command to run", "put it behind two dashes: sluicegate exec -- make -j4")
        return 2
    if shutil.which(command[0]) is None:
        console.fail(f"{command[0]}: command not found", "nothing was run and no stream was opened")
        return 127
    source = command[0].rsplit("/", 1)[-1]
    options = ExecutionOptions(
        argv=command,
        stream_id=stream or default_stream_id(source),
        kind=kind,
        source=printable(source, 256),
        title=title or printable(redacted(shlex.join(command)), 256),
        labels=labels_of(label or []),
        idle_timeout_ms=int(idle_timeout_s * 1000),
        alive_every_s=alive_every_s(kind, idle_timeout_s),
        pty=pty,
        strict=strict,
    )
    settings = Settings()
    url = edge_url(settings)
    console.note(f"stream {options.stream_id} on {redacted(url)}")
    client = EdgeClient(url, tenant=tenant, token=edge_token(settings), patience_s=patience_s)
    try:
        outcome = asyncio.run(_run(options, client, quiet=quiet))
    except SluicegateError as error:  # of the open, before anything was started
        console.fail(f"{command[0]} was not run: {error}", error.remedy)
        return exit_code_of(error)
    return _conclude(outcome)


async def _run(options: ExecutionOptions, client: EdgeClient, *, quiet: bool) -> Outcome:
    from ops.execution.run import Execution
    from ops.execution.terminal import Terminal

    terminal = Terminal(quiet=quiet)
    try:
        async with client:
            return await Execution(options, client, terminal).run()
    finally:
        terminal.close()


def _conclude(outcome: Outcome) -> int:
    from ops import console
    from ops.errors import exit_code_of

    if outcome.failure is None:
        return outcome.exit_code
    console.fail(
        f"{outcome.lines_undelivered} lines of the command may not be in the stream: {outcome.failure}",
        outcome.failure.remedy,
    )
    return outcome.exit_code or exit_code_of(outcome.failure)


def alive_every_s(kind: str, idle_timeout_s: float) -> float:
    """How long a command may be silent before its stream says that it lives: well within the time-out."""
    from schemas.kinds import KINDS

    known = KINDS.get(kind)  # the edge refuses a kind that it does not know
    kinds_own_s = known.connection.idle_timeout_ms / 1_000 if known is not None else 60.0
    return min(idle_timeout_s or kinds_own_s, kinds_own_s) / 3


def labels_of(words: list[str]) -> dict[str, str]:
    """NAME=VALUE words as a map; raises Misused for a word that is none."""
    from ops.errors import Misused

    labels: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise Misused(f"--label {word!r} is not NAME=VALUE", "write it as --label team=build")
        labels[name] = value
    return labels


def printable(text: str, bytes_max: int) -> str:
    """A command's words as the contract takes a name: one line, and no longer than this."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return plain.encode()[:bytes_max].decode("utf-8", "ignore")


def default_stream_id(source: str) -> str:
    """Make an id that nobody has and a person can say: the command's name, the time, six random digits."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", source)[:64].strip("-.") or "exec"
    return f"{name}-{time.strftime('%H%M%S')}-{secrets.token_hex(3)}"
