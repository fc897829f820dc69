"""The command line itself: quick to help, one way to fail, and an exit code for each way."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ops.cli import COMMANDS, build_app, prepare, run
from ops.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cyclopts import App


def sluicegate(
    folder: Path, *words: str, given: str | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEGATE_")}
    return subprocess.run(
        [sys.executable, "-m", "ops", *words],
        cwd=folder,
        env=environment | env,
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_loads_nothing_that_only_a_command_needs() -> None:
    script = "import sys, ops.cli; ops.cli.build_app(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    heavy = {"faust", "confluent_kafka", "fastapi", "uvicorn", "pydantic", "httpx2", "fastavro", "psycopg"}
    assert heavy & set(done.stdout.split()) == set()


def test_every_command_has_help_that_says_what_it_does_and_how(tmp_path: Path) -> None:
    assert len(COMMANDS) == 24
    commands = list(leaves(build_app(), ()))
    assert len(commands) >= 20
    for words, text in commands:
        assert text.strip(), words
        assert f"Example: `sluicegate {' '.join(words)}" in text, words


def leaves(app: App, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every command that does something, by its words, with its help."""
    inner = [name for name in app if not name.startswith("-")]
    if not inner:
        yield words, app.help
    for name in inner:
        yield from leaves(app[name], (*words, name))


def test_without_anything_running_a_command_says_what_to_start(tmp_path: Path) -> None:
    for words in (("tail", "x"), ("exec", "--", "true"), ("lag",), ("worker",), ("dlq", "list")):
        done = sluicegate(tmp_path, *words)
        assert done.returncode == 3, words
        assert done.stdout == ""
        assert "error: no " in done.stderr
        assert "`sluicegate " in done.stderr
        assert "Traceback" not in done.stderr


def test_an_edge_that_is_gone_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / ".sluicegate").mkdir()
    (tmp_path / ".sluicegate" / "edge.json").write_text('{"url": "http://127.0.0.1:1", "pid": 4194304}')
    done = sluicegate(tmp_path, "tail", "x")
    assert done.returncode == 3
    assert "process 4194304) is gone" in done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("tail",), 2),
        (("nonsense",), 2),
        (("exec",), 2),
        (("exec", "--", "no-such-command-anywhere"), 127),
        (("worker", "--roles", "ingest,dancing"), 2),
        (("replay", "none.jsonl", "--speed", "-1"), 2),
        (("replay", "none.jsonl"), 1),
        (("publish", "."), 1),
        (("dlq", "show", "x"), 2),
        (("--version",), 0),
        (("--help",), 0),
    ],
)
def test_exit_codes(tmp_path: Path, words: tuple[str, ...], code: int) -> None:
    done = sluicegate(tmp_path, *words, SLUICEGATE_EDGE__URL="http://127.0.0.1:9")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("edge", "--port", "99999"), "--port is from 0 to 65535, not 99999"),
        (("edge", "--port", "-1"), "--port is from 0 to 65535, not -1"),
        (("edge", "--grpc-port", "99999"), "--grpc-port is from -1 to 65535, not 99999"),
        (("edge", "--processes", "0"), "--processes is from 1 to 64, not 0"),
        (("edge", "--processes", "65"), "--processes is from 1 to 64, not 65"),
        (("replay", "none.jsonl", "--serve", "65536"), "--serve is from 0 to 65535, not 65536"),
    ],
)
def test_a_word_beyond_the_bounds_of_its_setting_is_told_with_them(
    words: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == 2
    told = capfd.readouterr().err
    assert said in told
    assert "→" in told


@pytest.mark.parametrize(
    "words",
    [("topology", "llm"), ("worker", "--roles", "ingest,llm"), ("topology", "edge")],
)
def test_who_looks_for_a_process_among_roles_is_told_its_command(
    words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    name = "edge" if "edge" in words else "llm"
    assert run(words) == 2
    told = capfd.readouterr().err
    assert f"`sluicegate {name}` is a process of its own, and no role; name any of ingest, " in told


@pytest.mark.parametrize(
    "words", [("tail", "a/b/c"), ("record", "a/b"), ("tail", "a b"), ("tail", "a", "--tenant", "x/y")]
)
def test_a_name_that_no_stream_can_have_is_not_waited_for(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = sluicegate(tmp_path, *words, SLUICEGATE_EDGE__URL="http://127.0.0.1:9")
    assert (done.returncode, "must match" in done.stderr, "waiting" in done.stderr) == (1, True, False)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_events_is_told_to_have_published_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "none.ndjson").write_text(text)
    for name, shown in (("none.ndjson", "none.ndjson"), ("-", "/dev/stdin")):
        done = sluicegate(tmp_path, "publish", name, given=text, SLUICEGATE_EDGE__URL="http://127.0.0.1:9")
        assert (done.returncode, done.stdout) == (0, "")
        assert f"warning: {shown} has no events: nothing was published" in done.stderr
        assert "published 0" not in done.stderr
    done = sluicegate(tmp_path, "publish", "none.ndjson", "--json", SLUICEGATE_EDGE__URL="http://127.0.0.1:9")
    assert (done.returncode, '"events":0' in done.stdout) == (0, True)
    assert "nothing was published" in done.stderr


def test_settings_that_are_wrong_name_their_variable_and_no_secret(tmp_path: Path) -> None:
    done = sluicegate(
        tmp_path,
        "lag",
        SLUICEGATE_STACK__KAFKA_PORT="seven",
        SLUICEGATE_POSTGRES__DSN="postgresql://me:s3cret@host/db",
    )
    assert done.returncode == 2
    assert "SLUICEGATE_STACK__KAFKA_PORT" in done.stderr
    assert "s3cret" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"EDGE__PROT": "1"}, "SLUICEGATE_EDGE__PROT: there is no such setting"),
        ({"EDGE__ALLOWED_HOSTS": "[nonsense"}, "SLUICEGATE_EDGE__ALLOWED_HOSTS: "),
        ({"EDGE": "nonsense"}, "SLUICEGATE_EDGE or a SLUICEGATE_EDGE__… is no JSON object"),
        ({"WORKER__WEB_PORT": "65535"}, "SLUICEGATE_WORKER__WEB_PORT: "),
        ({"KAFKA__BOOTSTRAP_SERVERS": "localhost"}, "SERVERS: 'localhost' is no host:port, as in kafka-1."),
        ({"KAFKA__BOOTSTRAP_SERVERS": "a:1,http://b:2"}, "'http://b:2' is no host:port"),
        ({"KAFKA__SECURITY_PROTOCOL": "SSLL"}, "SLUICEGATE_KAFKA__SECURITY_PROTOCOL: "),
        ({"KAFKA__SASL_MECHANISM": "PLAN"}, "SLUICEGATE_KAFKA__SASL_MECHANISM: "),
        ({"KAFKA__SECURITY_PROTOCOL": "SASL_SSL", "KAFKA__SASL_USERNAME": "me"}, "_KAFKA__SASL_PASSWORD"),
        ({"KAFKA__SASL_PASSWORD": "s3cret"}, "takes no SLUICEGATE_KAFKA__SASL_PASSWORD"),
        (
            {
                "KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA__SASL_MECHANISM": "gssapi",
                "KAFKA__SASL_KERBEROS_PRINCIPAL": "me@EXAMPLE", "KAFKA__SASL_KERBEROS_KEYTAB": "bad.pem",
            },
            "come without Kerberos",
        ),
        ({"KAFKA__SSL_CA_LOCATION": "none.pem"}, "SSL_CA_LOCATION: there is no file none.pem"),
        ({"KAFKA__SECURITY_PROTOCOL": "SSL", "KAFKA__SSL_CA_LOCATION": "bad.pem"}, "…__SSL_…"),
        ({"KAFKA__SSL_CA_LOCATION": "bad.pem"}, "takes no SLUICEGATE_KAFKA__SSL_CA_LOCATION; SSL or"),
        ({"KAFKA__SSL_KEY_PASSWORD": "s3cret"}, "takes no SLUICEGATE_KAFKA__SSL_KEY_PASSWORD"),
        ({"KAFKA__SECURITY_PROTOCOL": "SSL", "KAFKA__SSL_KEY_LOCATION": "bad.pem"}, "_CERTIFICATE_LOCATION"),
        ({"KAFKA__SECURITY_PROTOCOL": "SSL", "KAFKA__SSL_KEY_PASSWORD": "s3cret"}, "SSL_KEY_LOCATION"),
        ({"KAFKA__SECURITY_PROTOCOL": "SSL", "KAFKA__SSL_KEY_LOCATION": "none.pem"}, "no file none.pem"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_told_by_their_variables(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    given = {"KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9", "REGISTRY__URL": "http://127.0.0.1:9", **settings}
    for words in (("lag",), ("--debug", "lag")):
        done = sluicegate(tmp_path, *words, **{f"SLUICEGATE_{name}": value for name, value in given.items()})
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "defect" not in done.stderr
        assert "s3cret" not in done.stderr


def test_what_is_no_setting_of_a_group_is_somebody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("SLUICEGATE_")]:
        monkeypatch.delenv(name)  # the demo runs these tests under settings of its own
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("COMPOSE_POSTGRES_PASSWORD=x\nSLUICEGATE_EDGE__PORT=8700\n")
    for name, value in {
        "SLUICEGATE_TEST_STACK": "/elsewhere",
        "SLUICEGATE_EDGE_PORT": "tcp://10.0.0.1:80",  # as Kubernetes says where a service is
        "SLUICEGATE_EDGE__ALLOWED_HOSTS": "streams.example, other.example",
        "SLUICEGATE_KAFKA__SECURITY_PROTOCOL": "ssl",
        "SLUICEGATE_WORKER__AT_LEAST_ONCE": "mine, archive",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.edge.port == 8700
    assert settings.edge.allowed_hosts == ("streams.example", "other.example")
    assert settings.kafka.security_protocol == "SSL"
    assert settings.worker.at_least_once == ("mine", "archive")
    monkeypatch.setenv("SLUICEGATE_EDGE__ALLOWED_HOSTS", '["streams.example"]')
    assert Settings().edge.allowed_hosts == ("streams.example",)


def test_a_dash_is_standard_input_and_the_users_own_command_is_left_alone() -> None:
    assert prepare(["publish", "-"]) == (False, ["publish", "/dev/stdin"])
    assert prepare(["--debug", "exec", "--", "cat", "-"]) == (True, ["exec", "--", "cat", "-"])
    assert prepare(["exec", "--", "--debug"]) == (False, ["exec", "--", "--debug"])


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m ops --help | head -1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Traceback" not in done.stderr


def test_a_migration_that_is_none_is_told_with_sluicegates_own(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(("worker", "--roles", "aggregate", "--migrate", "wider")) == 2
    assert "name any of usage_told_apart; a module of yours declares its own" in capfd.readouterr().err
