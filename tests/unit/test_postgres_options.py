"""Options of the sink: bounds that fit together, and a password that is never shown."""

from __future__ import annotations

import dataclasses

import pytest

from connectors.postgres import errors
from connectors.postgres.errors import SinkError
from connectors.postgres.options import PostgresOptions
from schemas.errors import SluicegateError

DSN = "postgresql://alice:s3cret%20word@db.example:6432/things"


def test_the_password_is_not_in_what_is_shown():
    options = PostgresOptions(dsn=DSN)
    assert options.where == "alice@db.example:6432/things"
    for shown in (repr(options), str(options), options.where, f"{options}"):
        assert "s3cret" not in shown


@pytest.mark.parametrize(
    ("dsn", "where"),
    [
        ("host=/var/run/postgresql dbname=a", "(default user)@/var/run/postgresql:5432/a"),
        ("postgresql://u@one,two:1/db", "u@one:5432,two:1/db"),
        ("postgresql://u@one,two/db?port=7", "u@one:7,two:7/db"),
        ("", "(default user)@localhost:5432/(default database)"),
        ("host='unclosed", "(unreadable DSN)"),
    ],
)
def test_the_address_is_told_for_every_form_of_connection_string(dsn, where):
    assert PostgresOptions(dsn=dsn).where == where


def test_our_bounds_are_in_the_connection_string_and_the_users_own_choices_win():
    plain = PostgresOptions(dsn=DSN).conninfo()
    for part in ("keepalives_idle=10", "target_session_attrs=read-write", "connect_timeout=3"):
        assert part in plain
    theirs = PostgresOptions(dsn=DSN + "?target_session_attrs=any&application_name=mine").conninfo()
    assert "target_session_attrs=any" in theirs
    assert "application_name=mine" in theirs


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema": 'x"; DROP TABLE y; --'}, "schema"),
        ({"schema": "Upper"}, "schema"),
        ({"sink": ""}, "sink"),
        ({"lock_timeout_ms": 5_000}, "lock_timeout_ms=5000"),
        ({"statement_timeout_ms": 9_000}, "answer_timeout_ms"),
        ({"lock_timeout_ms": 0}, "lock_timeout_ms"),
        ({"connect_timeout_s": 1}, "connect_timeout_s"),
        ({"rows_a_statement_max": 0}, "rows_a_statement_max"),
        ({"idle_in_transaction_timeout_ms": 0}, "idle_in_transaction_timeout_ms"),
    ],
)
def test_options_that_do_not_fit_together_are_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        PostgresOptions(dsn=DSN, **change)


def test_options_cannot_be_changed_afterwards():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PostgresOptions(dsn=DSN).sink = "other"


def test_every_error_of_the_tree_says_whether_it_may_pass_and_stands_in_the_drawing():
    leaves = [each for each in vars(errors).values() if isinstance(each, type) and each.__base__ is SinkError]
    assert issubclass(SinkError, SluicegateError)
    assert {leaf.__name__: leaf.transient for leaf in leaves} == {
        "SinkUnavailable": True,
        "SinkTimeout": True,
        "OutcomeUnknown": True,
        "FenceLost": False,
        "WentBack": False,
        "SinkRefused": False,
        "SinkUnfit": False,
    }
    assert errors.__doc__ is not None
    for leaf in leaves:
        word = "transient" if leaf.transient else "final"
        assert any(leaf.__name__ in line and word in line for line in errors.__doc__.splitlines())


def test_every_error_tells_an_operator_what_to_do():
    made = [
        errors.SinkUnavailable("here", "gone"),
        errors.SinkTimeout("here", "store", "lock"),
        errors.OutcomeUnknown("here", "gone"),
        errors.FenceLost("t", 0, mine=(1, 0), found=None),
        errors.SinkRefused("streams", "kind", 3, "stream_id='x'", "too long"),
        errors.SinkUnfit("here", "old", remedy="Upgrade."),
    ]
    for error in made:
        assert error.remedy.endswith(".")
