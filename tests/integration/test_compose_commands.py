"""Each of our images' commands and health checks, as `docker-compose.yml` has them, run on this machine.

No container engine runs here: what differs is the addresses, which become the local stack's, and the ports.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import httpx2
import psycopg
import pytest
import yaml

from connectors.llm.loopback.server import LoopbackThread
from ops.stack.cache import Cache, unpacked
from ops.stack.compose import FILE
from ops.stack.java import java
from ops.stack.parts import CCOMPAT_PATH, LLM_WEB_PORT, WORKER_WEB_PORTS
from tests.support.ports import consecutive_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from connectors.llm.loopback.server import Loopback
    from ops.stack.addresses import Addresses

SERVICES = yaml.safe_load(FILE.read_text())["services"]
BIN = Path(sys.executable).parent
ASKED = {"model": "words?tokens=5", "messages": [{"role": "user", "content": "tell me"}]}
EDGE_PORT = int(SERVICES["edge"]["environment"]["SLUICEGATE_EDGE__PORT"])

pytestmark = pytest.mark.timeout(300)


@contextmanager
def run_as_in_compose(
    name: str, stack: Addresses, prefix: str, folder: Path, changed: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A service's command with its environment, its addresses replaced; stopped as compose would."""
    addresses = {
        "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": stack.kafka,
        "SLUICEGATE_REGISTRY__URL": stack.registry_url,
        "SLUICEGATE_POSTGRES__DSN": stack.postgres_dsn,
        "SLUICEGATE_DATA_DIR": str(folder / name),
        "SLUICEGATE_KAFKA__TOPIC_PREFIX": prefix,
    }
    theirs = SERVICES[name]["environment"]
    replaced = {key: value for key, value in addresses.items() if key in theirs or key.endswith("PREFIX")}
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", **theirs, **replaced, **changed}
    log = folder / f"{name}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            SERVICES[name]["command"], env=environment, cwd=folder, stdout=sink, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        grace_s = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        try:
            code = process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"{name} did not stop within its grace of {grace_s} s:\n{log.read_text()}")
    assert code == 0, f"{name} ended with {code}:\n{log.read_text()}"


def health(name: str, ports: Mapping[int, int]) -> subprocess.CompletedProcess[str]:
    """A service's own health check, asked at the ports that it has here."""
    word, *command = SERVICES[name]["healthcheck"]["test"]
    assert word == "CMD"
    for there, here in ports.items():
        command = [part.replace(f":{there}/", f":{here}/") for part in command]
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}"}
    root = FILE.parent  # the image's WORKDIR
    return subprocess.run(
        command, env=environment, cwd=root, capture_output=True, text=True, timeout=30, check=False
    )


def until_well(name: str, ports: Mapping[int, int], process: subprocess.Popen[bytes], folder: Path) -> None:
    """Ask as compose does until it is well; it may take the start period and the retries."""
    deadline = time.monotonic() + 120
    told = health(name, ports)
    while told.returncode:
        output = (folder / f"{name}.log").read_text()
        assert process.poll() is None, f"{name} ended:\n{output}"
        assert time.monotonic() < deadline, f"{name} never became well: {told.stderr}\n{output}"
        time.sleep(0.5)
        told = health(name, ports)


def test_each_of_ours_runs_as_compose_runs_it(stack, registered_schemas, topic_prefix, tmp_path):
    first = consecutive_ports(len(WORKER_WEB_PORTS) + 3)
    worker_ports = {port: first + index for index, port in enumerate(WORKER_WEB_PORTS)}
    edge_port, grpc_port, llm_port = range(first + len(WORKER_WEB_PORTS), first + len(WORKER_WEB_PORTS) + 3)
    edge_ports, llm_ports = {EDGE_PORT: edge_port}, {LLM_WEB_PORT: llm_port}
    worker_web = {"SLUICEGATE_WORKER__WEB_PORT": str(first)}
    edge_web = {"SLUICEGATE_EDGE__PORT": str(edge_port), "SLUICEGATE_EDGE__GRPC_PORT": str(grpc_port)}
    llm_web = {"SLUICEGATE_LLM__WEB_PORT": str(llm_port)}
    assert health("worker", worker_ports).returncode == 1
    assert health("edge", edge_ports).returncode == 1
    assert health("llm", llm_ports).returncode == 1

    with (
        LoopbackThread() as provider,
        run_as_in_compose("llm", stack, topic_prefix, tmp_path, llm_web | llm_env(provider)) as llm,
        run_as_in_compose("worker", stack, topic_prefix, tmp_path, worker_web) as worker,
        run_as_in_compose("edge", stack, topic_prefix, tmp_path, edge_web) as edge,
    ):
        until_well("worker", worker_ports, worker, tmp_path)
        until_well("edge", edge_ports, edge, tmp_path)
        until_well("llm", llm_ports, llm, tmp_path)
        url = f"http://127.0.0.1:{edge_port}"
        published = publish(url, "compose-1")
        assert published.is_success, published.text
        delivered = read_stream(url, "compose-1")
        # Prometheus asks by the service's name, which is not the address that the edge is bound to.
        scraped = httpx2.get(f"{url}/metrics", headers={"Host": f"edge:{EDGE_PORT}"})
        assert scraped.status_code == httpx2.codes.OK
        assert "sluicegate_edge_published_events_total 3.0" in scraped.text
        asked = httpx2.post(f"{url}/v1/llm/streams", json={**ASKED, "stream_id": "compose-2"}, timeout=30)
        assert asked.status_code == httpx2.codes.ACCEPTED, asked.text
        answered = read_stream(url, "compose-2")
        stranger = httpx2.get(f"{url}/metrics", headers={"Host": "evil.example"})
        assert stranger.is_client_error

    assert [line for line in delivered if "hello from a container" in line]
    for lines in (delivered, answered):
        assert [line for line in lines if '"reason":"completed"' in line.replace(" ", "")]
    assert len(provider.seen) == 1


def llm_env(provider: Loopback) -> dict[str, str]:
    """What `llm.env` says: here a provider that stands for a real one, which has a key."""
    variable = "SLUICEGATE_LLM__PROVIDERS__HERE__"
    return {
        f"{variable}SHAPE": "anthropic",
        f"{variable}BASE_URL": provider.base_url("anthropic"),
        f"{variable}API_KEY": "of-nobody",
        f"{variable}MODELS": ASKED["model"],
    }


def publish(url: str, stream: str) -> httpx2.Response:
    events = [
        {"type": "open", "payload": {}},
        {"type": "log", "payload": {"level": "info", "line": "hello from a container"}},
        {"type": "end", "payload": {"reason": "completed"}},
    ]
    return httpx2.post(f"{url}/v1/streams/{stream}/events?kind=log", json=events, timeout=30)


def read_stream(url: str, stream: str) -> list[str]:
    """Lines of the stream until the edge closes it, which it does after its end."""
    with httpx2.stream("GET", f"{url}/v1/streams/{stream}/events", timeout=60) as response:
        assert response.is_success
        return list(response.iter_lines())


def test_the_registry_keeps_its_schemas_in_postgresql_as_compose_has_it(stack, stack_settings, tmp_path):
    """The one part whose storage differs between the two forms, with PostgreSQL's image's own script."""
    environment = dict(SERVICES["registry"]["environment"])
    script = (FILE.parent / "deploy/postgres/registry.sql").read_text()
    with psycopg.connect(stack.postgres_dsn, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS registry WITH (FORCE)")
        for statement in re.sub(r"--.*", "", script).strip().rstrip(";").split(";"):
            connection.execute(statement)
    server = urlsplit(stack.postgres_dsn)
    environment |= {
        "PATH": os.environ["PATH"],
        "APICURIO_DATASOURCE_URL": environment["APICURIO_DATASOURCE_URL"].replace(
            "//postgres:5432/", f"//127.0.0.1:{server.port}/"
        ),
        "APICURIO_DATASOURCE_PASSWORD": server.password,
        "QUARKUS_HTTP_HOST": "127.0.0.1",
        "QUARKUS_HTTP_PORT": str(port := consecutive_ports(1)),
        "QUARKUS_MANAGEMENT_HOST": "127.0.0.1",
        "QUARKUS_MANAGEMENT_PORT": "0",
    }
    url = f"http://127.0.0.1:{port}{CCOMPAT_PATH}"
    program = unpacked(Cache(stack_settings.cache_dir.absolute()).folder("registry"))
    for expected in ([], ["thing"]):  # the second time, a restart must still know what was registered
        with (tmp_path / "registry.log").open("wb") as sink:
            process = subprocess.Popen(
                [java(), "-Xmx256m", "-XX:TieredStopAtLevel=1", "-jar", "quarkus-run.jar"],
                cwd=program,
                env=environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        try:
            assert wait_for_subjects(url, process, tmp_path / "registry.log") == expected
            body = {"schema": '{"type": "string"}'}
            httpx2.post(f"{url}/subjects/thing/versions", json=body, timeout=30).raise_for_status()
        finally:
            process.terminate()
            process.wait(30)
        with psycopg.connect(urlunsplit(server._replace(path="/registry"))) as connection:
            assert connection.execute("SELECT count(*) FROM artifacts").fetchone() == (1,)
    with psycopg.connect(stack.postgres_dsn, autocommit=True) as connection:
        connection.execute("DROP DATABASE registry WITH (FORCE)")


def wait_for_subjects(url: str, process: subprocess.Popen[bytes], log: Path) -> list[str]:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            response = httpx2.get(f"{url}/subjects", timeout=5)
        except httpx2.HTTPError:
            time.sleep(0.2)
            continue
        if response.is_success:
            return response.json()
        time.sleep(0.2)
    pytest.fail(f"the registry never answered:\n{log.read_text()}")
