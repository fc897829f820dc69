"""Where commands find a stack's parts when some of them are gone, or were stopped by `down`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ops import console
from ops.addresses import addresses
from ops.cli import run
from ops.errors import NoStack
from ops.settings import Settings
from ops.stack.down import down
from ops.stack.process import ProcessRecord
from ops.stack.state import RunningPart, write_state

if TYPE_CHECKING:
    from collections.abc import Iterator

DSN = "postgresql://sluicegate:s3cret@127.0.0.1:1/sluicegate"
"""Where nobody listens."""
GONE = RunningPart("postgres", ProcessRecord(2**22 + 1, 1.0), 1, DSN, "postgres.log")


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Iterator[Settings]:
    """Kafka and the registry are elsewhere; PostgreSQL was started here, and its process is gone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS", "kafka:9092")
    monkeypatch.setenv("SLUICEGATE_REGISTRY__URL", "http://registry")
    monkeypatch.setenv("SLUICEGATE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("SLUICEGATE_POSTGRES__DSN", raising=False)
    settings = Settings()
    settings.data_dir.mkdir()
    write_state(settings.data_dir, {"postgres": GONE})
    console.err.cache_clear()  # it keeps the stream that it was made with
    yield settings
    console.err.cache_clear()


def test_a_postgresql_that_is_gone_is_away_and_not_left_out(settings):
    assert addresses(settings).postgres_dsn == DSN


def test_of_a_postgresql_that_is_gone_a_command_says_that_it_does_not_answer(settings, capsys):
    assert run(["deliveries", "build-42"]) == 3

    said = capsys.readouterr().err
    assert "127.0.0.1:1/sluicegate cannot be used now" in said
    assert "`sluicegate up`" in said
    assert "s3cret" not in said


def test_after_down_there_is_no_postgresql(settings):
    assert down(settings) == {"postgres": "was not running"}

    assert addresses(settings).postgres_dsn == ""


@pytest.mark.parametrize(
    ("name", "variable"),
    [("kafka", "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS"), ("registry", "SLUICEGATE_REGISTRY__URL")],
)
def test_without_a_kafka_or_registry_that_runs_no_command_goes_on(name, variable, settings, monkeypatch):
    monkeypatch.delenv(variable)
    write_state(settings.data_dir, {name: GONE})

    with pytest.raises(NoStack, match="no local stack runs") as missing:
        addresses(Settings())

    assert "`sluicegate up`" in str(missing.value.remedy)
