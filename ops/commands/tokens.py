"""`sluicegate tokens`: issue one for a first day, take one back, and see which were."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003  # cyclopts reads it
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ops.tokens import Revoked, Revoker

Flag = Annotated[bool, Parameter(negative=())]
AsJson = Annotated[bool, Parameter(name="--json", negative=())]
Words = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())]

LIFE_S_MAX = 100 * 365 * 86_400
"""A hundred years: that it ends is to be said as a date, and dates end with the year 9999."""


def register(app: App) -> None:
    """Add the commands to the app."""
    tokens = App(name="tokens", help="Issue a token for a first day, take tokens back, list which were.")
    tokens.command(issue_command, name="issue")
    tokens.command(revoke_command, name="revoke")
    tokens.command(list_command, name="list")
    app.command(tokens)


def issue_command(
    *,
    subject: str = "developer",
    tenants: Words = ("default",),
    streams: Words = ("*",),
    kinds: Words = ("*",),
    scope: Words = ("subscribe", "publish"),
    life_s: int = 3_600,
    folder: Path | None = None,
    as_json: AsJson = False,
) -> int:
    """Make a token for a first day or a test: not for production, where an issuer of its own makes them.

    The key is made in the data folder when it is first needed, with its public half beside it in `keys.json`.
    The token is printed, and nothing else is; what to do with it is said on standard error.

    Example: `sluicegate tokens issue --streams 'build-*' --scope subscribe`

    Parameters
    ----------
    subject
        Whose it is.
    tenants
        Names of tenants, or `*`.
    streams
        Names of streams, or beginnings of names with `*`.
    kinds
        Kinds of streams, or `*`.
    scope
        Any of subscribe, publish, cancel, operate.
    life_s
        Seconds that it is good for.
    folder
        Where the key is; by default `access` in the data folder.
    as_json
        Print a JSON document: token, its id, when it ends, where the public keys are.
    """
    from edge.access.tokens import TEXT_CHARS_MAX, TOKEN_CHARS_MAX
    from ops import console
    from ops.errors import Misused
    from ops.settings import Settings
    from ops.tokens import issue

    settings = Settings()
    known = ("subscribe", "publish", "cancel", "operate")
    if unknown := [word for word in scope if word not in known]:
        raise Misused(f"--scope: there is no {', '.join(unknown)}", f"name any of {', '.join(known)}")
    if not 1 <= life_s <= LIFE_S_MAX:
        raise Misused(f"--life-s is from 1 to {LIFE_S_MAX}, not {life_s}", "seconds, a hundred years at most")
    _check_names(tenants, streams, kinds)
    if len(subject) > TEXT_CHARS_MAX:
        raise Misused(f"--subject has {len(subject)} characters", f"an edge takes {TEXT_CHARS_MAX}")
    claims = {
        "sub": subject,
        "tenants": list(tenants),
        "streams": list(streams),
        "kinds": list(kinds),
        "scope": " ".join(scope),
    }
    access = settings.access
    made = issue(
        folder or settings.data_dir / "access",
        claims,
        audience=access.audience,
        issuer=access.issuer,
        life_s=life_s,
    )
    if len(made.token) > TOKEN_CHARS_MAX:
        raise Misused(
            f"the token would have {len(made.token)} characters, and an edge takes {TOKEN_CHARS_MAX}",
            "name fewer streams, or beginnings of their names with *",
        )
    if as_json:
        console.print_json(
            {
                "token": made.token,
                "id": made.token_id,
                "expires": datetime.fromtimestamp(made.expires_s, UTC).isoformat(),
                "keys_file": str(made.keys_file.absolute()),
            }
        )
        return 0
    console.out().print(made.token, highlight=False, soft_wrap=True)
    if access.keys_file is None or access.keys_file.absolute() != made.keys_file.absolute():
        console.note(f"an edge takes it under SLUICEGATE_ACCESS__KEYS_FILE={made.keys_file.absolute()}")
    console.note(f"to take it back: sluicegate tokens revoke {made.token_id} --reason … --yes")
    return 0


def _check_names(tenants: Sequence[str], streams: Sequence[str], kinds: Sequence[str]) -> None:
    """Refuse what an edge would answer with 401. Raises Misused."""
    from edge.access.tokens import PATTERNS_MAX, is_pattern, is_whole
    from ops.errors import Misused

    for option, names, is_right, more in (
        ("--tenants", tenants, is_whole, ""),
        ("--streams", streams, is_pattern, ", or the beginning of names with one * at its end"),
        ("--kinds", kinds, is_whole, ""),
    ):
        if wrong := [name for name in names if not is_right(name)]:
            raise Misused(
                f"{option}: an edge does not take {wrong[0][:200]!r}",
                f"say a name of 1 to 128 characters (A-Z a-z 0-9 . _ : -){more}, or * for all",
            )
        if len(names) > PATTERNS_MAX:
            raise Misused(f"{option}: {len(names)} names", f"an edge takes at most {PATTERNS_MAX} of a token")


def revoke_command(
    name: str,
    *,
    subject: Flag = False,
    reason: str = "",
    until: datetime | None = None,
    undo: Flag = False,
    yes: Flag = False,
    as_json: AsJson = False,
) -> int:
    """Take a token back before it ends; all edges know within a second, and close what is open under it.

    Of a subject, all tokens that were issued until now are taken back; later ones are good. Without `--yes`
    nothing is done.

    Example: `sluicegate tokens revoke 5f0c… --reason "laptop lost" --yes`

    Parameters
    ----------
    name
        Id of the token (`jti`), or the subject (`sub`).
    subject
        The name is a subject's.
    reason
        Kept with who did it; needed with --yes.
    until
        When all of them have ended by themselves, so that this is forgotten then; UTC if no zone is said.
    undo
        Make it good again.
    yes
        Do it.
    as_json
        Print a JSON document.
    """
    from ops import console
    from ops.commands.levers import need_reason
    from ops.errors import Misused
    from ops.tokens import key_of, words_of

    if not name or len(name) > 256 or not name.isprintable():
        raise Misused(
            "a token's id, or a subject, is 1 to 256 printable characters", "`jti` or `sub` of the token"
        )
    until_us = _until_us(until)
    if not undo:
        need_reason(reason, yes=yes)
    what = "sub" if subject else "jti"
    key = key_of("sub" if subject else "jti", name)
    with _revoker() as revoker:
        holds = key in {one.key for one in revoker.held()}
        # A subject's is moved on each time: it is about what was issued until now.
        changes = holds if undo else subject or not holds
        if yes and changes and undo:
            revoker.restore("sub" if subject else "jti", name, reason=reason)
        elif yes and changes:
            revoker.revoke("sub" if subject else "jti", name, reason=reason, until_us=until_us)
    back = f"sluicegate tokens revoke {words_of(key)} " + ("--reason … --yes" if undo else "--undo --yes")
    if as_json:
        told = {"dry_run": not yes, "what": what, "name": name, "changed": changes and yes, "undo": back}
        console.print_json(dict[str, object](told))
        return 0
    done = "made good again" if undo else "revoked"
    state = (
        f"{'would be ' if not yes else ''}{done}"
        if changes
        else ("not revoked" if undo else "revoked already")
    )
    console.out().print(f"{key}: {state}")
    if changes:
        console.out().print(f"undo: {back}")
    if changes and not yes:
        console.note("dry run: --yes does it")
    return 0


def list_command(*, as_json: AsJson = False) -> int:
    """List the tokens and subjects that were taken back, as long as it holds.

    Example: `sluicegate tokens list`

    Parameters
    ----------
    as_json
        Print a JSON document.
    """
    from rich.table import Table
    from rich.text import Text

    from ops import console
    from ops.redaction import escaped

    with _revoker() as revoker:
        rows = [_row(one) for one in revoker.held()]
    if as_json:
        console.print_json({"revoked": list[object](rows)})
        return 0
    if not rows:
        console.note("no token is revoked")
        return 0
    table = Table(box=None, pad_edge=False)
    for title in ("what", "since", "until", "by", "why"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(
            *(Text(escaped(row[name].encode(), 2_000)) for name in ("what", "since", "until", "by", "why"))
        )
    console.out().print(table)
    return 0


def _row(one: Revoked) -> dict[str, str]:
    from schemas.published import time_text

    return {
        "what": one.key,
        "since": time_text(one.since_us),
        "until": time_text(one.until_us) if one.until_us else "",
        "by": one.by,
        "why": one.reason,
    }


def _until_us(until: datetime | None) -> int:
    from ops.errors import Misused

    if until is None:
        return 0
    zoned = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    if zoned <= datetime.now(UTC):
        raise Misused("--until is over already", "name a time that is to come, or none")
    return int(zoned.timestamp() * 1_000_000)


@contextmanager
def _revoker() -> Iterator[Revoker]:
    from ops.addresses import addresses, kafka_options
    from ops.settings import Settings
    from ops.tokens import Revoker

    settings = Settings()
    where = addresses(settings)
    revoker = Revoker(settings, kafka_options(settings, where.kafka), where.registry_url)
    try:
        yield revoker
    finally:
        revoker.close()
