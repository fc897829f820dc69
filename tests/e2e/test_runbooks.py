"""Each command block of each runbook, run in the real fault that it is for."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.topics import INPUT
from tests.e2e.deployment import Deployment
from tests.e2e.model_deployment import asked_for_answers
from tests.e2e.runbook_page import PARTS, RUNBOOKS, page, pages, pasted
from tests.support.ports import free_port
from tests.support.sse_client import read_stream
from tests.support.swarm import Swarm
from tests.tidy.test_docs import headings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.model_deployment import ModelDeployment

pytestmark = pytest.mark.timeout(300)
ALL = ("ingest", "aggregate", "archive")


def run(deployment: Deployment, page_name: str, block_name: str, *shown: str) -> str:
    """Run a block as a reader of the page would, and hold it to its exit code and its output.

    ``shown`` is what must be seen in this fault beyond what the page says.
    """
    block = page(page_name).blocks[block_name]
    settings = {"WORKER_LOG": str(deployment.log), "EDGE_LOG": str(deployment.edge_log)}
    if "psql" in block.script:  # else the local stack's own address is found, as it is for a user
        settings["SLUICEGATE_POSTGRES__DSN"] = deployment.postgres_dsn
    with (deployment.folder / f"output-{block_name}").open(
        "w+b"
    ) as output:  # not a pipe: a block may start a worker
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", block.script],
            check=False,
            cwd=deployment.folder,
            env=deployment.environment | settings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=240,
        )
        output.seek(0)
        text = output.read().decode()
    told = f"{page_name}, {block_name}:\n{block.script}\nprinted, with exit code {done.returncode}:\n{text}"
    assert done.returncode == block.exit_code, told
    missing = block.missing_from(text)
    assert missing is None, f"{told}\nand not, in this order: {missing}"
    for words in shown:
        assert words in text, f"{told}\nand not: {words}"
    return text


@pytest.fixture
def deployment(tmp_path: Path, kafka_options, registered_schemas) -> Iterator[Deployment]:
    with Deployment(tmp_path, kafka_options, registered_schemas) as case:
        yield case


@pytest.fixture
def busy(deployment: Deployment) -> Deployment:
    """A deployment whose worker has done some work and has nothing left to do."""
    deployment.worker = deployment.start()
    deployment.publish(20, 10)
    deployment.until(lambda: deployment.drained(*ALL), "the first load drained")
    return deployment


# -- the pages themselves -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", pages())
def test_every_page_has_the_seven_parts_in_order_and_stands_in_the_index(name):
    assert tuple(page(name).parts) == PARTS
    assert f"({name}.md)" in (RUNBOOKS / "README.md").read_text()


@pytest.mark.parametrize("name", pages())
def test_every_block_of_a_page_is_run_by_a_test_here(name):
    run_here = {block for of_page, block in blocks_run_here() if of_page == name}
    assert set(page(name).blocks) == run_here
    assert page(name).text.count("```sh\n") == len(run_here), "a block without a name is never run"


def blocks_run_here() -> set[tuple[str, str]]:
    """Page and block of each call of `run` in a test of this file: read, so that one test can run alone."""
    tests = [
        node
        for node in ast.parse(Path(__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    calls = [node for test in tests for node in ast.walk(test) if isinstance(node, ast.Call)]
    return {
        (ast.literal_eval(call.args[1]), ast.literal_eval(call.args[2]))
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "run"
    }


@pytest.mark.parametrize("name", pages())
def test_every_link_of_a_page_leads_somewhere(name):
    import re  # noqa: PLC0415

    anchors = {
        other: {
            re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
            for title in re.findall(r"^#+ (.+)$", (RUNBOOKS / f"{other}.md").read_text(), re.MULTILINE)
        }
        for other in [*pages(), "README"]
    }
    for target in re.findall(r"\]\(([^)]+)\)", page(name).text):
        file, _, anchor = target.partition("#")
        if file.startswith("../docs/"):
            assert anchor in headings(RUNBOOKS / file), target
            continue
        other = file.removesuffix(".md") or name
        assert other in anchors, target
        assert not anchor or anchor in anchors[other], target


def test_a_line_that_is_missing_or_out_of_order_is_found():
    block = page("lag-growth").blocks["which-role"]
    good = "\n".join(line.replace("…", "x") for line in block.expected)
    assert block.missing_from(good) is None
    assert block.missing_from("\n".join(reversed(good.splitlines()))) == block.expected[1]
    assert block.missing_from(good.replace("sluicegate.archive", "")) == block.expected[-1]


# -- lag-growth -----------------------------------------------------------------------------------------


def test_lag_growth_no_worker(busy: Deployment):
    busy.publish(300, 10)
    busy.end(busy.worker)
    busy.publish(300, 10)

    text = run(busy, "lag-growth", "which-role")
    assert busy.lag("ingest")["records"] >= 3_000, text
    run(busy, "lag-growth", "which-partition")
    alive = run(busy, "lag-growth", "is-a-worker-alive")
    assert alive.count("nobody") == len(ALL), alive
    run(busy, "lag-growth", "does-it-run", "is gone")
    run(busy, "lag-growth", "what-the-worker-says")
    run(busy, "lag-growth", "start-a-worker")
    run(busy, "lag-growth", "caught-up")
    assert busy.archived() == (620, 6_200)


def test_lag_growth_a_worker_that_stands_still(busy: Deployment):
    roles = busy.roles(busy.worker)
    for role in roles:
        role.suspend()
    busy.publish(300, 10)
    time.sleep(8)  # beyond the session time-out: its partitions are taken from it

    run(busy, "lag-growth", "which-role")
    assert busy.lag("ingest")["records"] == 3_000
    alive = run(busy, "lag-growth", "is-a-worker-alive")
    assert alive.count("held") == 3, alive
    text = run(busy, "lag-growth", "does-it-run")
    assert text.count("T (stopped)") == 3, text
    run(busy, "lag-growth", "let-it-go-on")
    run(busy, "lag-growth", "caught-up")
    assert busy.archived() == (320, 3_200)


def test_lag_growth_the_database(busy: Deployment):
    with psycopg.connect(busy.postgres_dsn) as holder:
        holder.execute("LOCK TABLE sluicegate.streams IN ACCESS EXCLUSIVE MODE")
        busy.publish(300, 10)
        busy.until(lambda: busy.logged("lock timeout"), "the archive meets the lock")
        busy.until(lambda: busy.drained("ingest", "aggregate"), "the other roles go on")
        run(busy, "lag-growth", "which-role")
        assert busy.lag("archive")["records"] >= 300
        run(busy, "lag-growth", "what-the-worker-says", "agent waits for what may pass")
        run(busy, "lag-growth", "sink-is-waiting")
        run(busy, "lag-growth", "who-holds-the-tables", str(holder.info.backend_pid))
        run(busy, "lag-growth", "end-that-session", str(holder.info.backend_pid))
        with pytest.raises(psycopg.OperationalError):
            holder.execute("SELECT 1")
    run(busy, "lag-growth", "caught-up")
    with psycopg.connect(busy.postgres_dsn) as reader:
        assert reader.execute("SELECT count(*) FROM sluicegate.streams WHERE ended_us > 0").fetchone() == (
            320,
        )


def test_lag_growth_an_open_transaction(busy: Deployment):
    foreign = Producer(
        busy.kafka.client_config()
        | {"transactional.id": f"{busy.kafka.topic_prefix}foreign", "transaction.timeout.ms": 60_000}
    )
    foreign.init_transactions()
    foreign.begin_transaction()
    for partition in range(INPUT.partitions):
        foreign.produce(INPUT.named(busy.kafka.topic_prefix), b"not an event", b"default/x", partition)
    foreign.flush()
    busy.publish(300, 10)
    busy.until(lambda: busy.lag("ingest")["unstable_records"] >= 3_000, "what waits behind it")
    run(busy, "lag-growth", "open-transactions")
    foreign.commit_transaction()  # the foreign producer ends it, with records that are no events

    run(busy, "lag-growth", "caught-up")
    run(busy, "lag-growth", "dead-letters", "BadMagic", "not a Confluent frame")
    run(busy, "lag-growth", "hand-them-in", "4 replayed, 0 before, 0 cannot")


def test_lag_growth_a_surge(busy: Deployment):
    held = busy.roles(busy.worker)
    for role in held:  # so that there is lag to see, however fast this machine is
        role.suspend()
    busy.publish(6_000, 20)
    run(busy, "lag-growth", "which-role")
    assert busy.lag("ingest")["records"] == 120_000
    for role in held:
        role.resume()
    added = run(busy, "lag-growth", "add-a-worker")
    assert int(added) > 0
    run(busy, "lag-growth", "caught-up")
    assert busy.archived() == (6_020, 120_200)


# -- checkpoint-failure ---------------------------------------------------------------------------------


def test_checkpoint_failure_postgresql_is_away(busy: Deployment):
    os.kill(busy.postgres_pid, signal.SIGINT)  # PostgreSQL's fast shutdown
    busy.publish(300, 10)
    busy.until(lambda: busy.logged("cannot be used now"), "the archive misses its database")

    run(busy, "checkpoint-failure", "parts", "gone")
    run(busy, "checkpoint-failure", "what-the-worker-says", "agent waits for what may pass", "refused")
    run(busy, "checkpoint-failure", "start-postgresql")
    run(busy, "checkpoint-failure", "caught-up")
    run(busy, "checkpoint-failure", "positions-of-the-archive")
    assert busy.worker.poll() is None
    with psycopg.connect(busy.postgres_dsn) as reader:
        assert reader.execute("SELECT count(*) FROM sluicegate.streams WHERE ended_us > 0").fetchone() == (
            320,
        )


def test_checkpoint_failure_the_disk_is_full(busy: Deployment):
    state = busy.folder / ".sluicegate" / "state" / "ingest"
    busy.stop(busy.worker)
    shutil.rmtree(state)
    state.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(state)], capture_output=True, check=False
    )
    if (
        made.returncode != 0
    ):  # also in CI: the right to mount is the machine's to give, and cannot be installed
        pytest.skip(f"a file system of 2 MB cannot be mounted here: {made.stderr.decode().strip()}")
    try:
        busy.start()
        busy.publish(6_000, 3)
        busy.until(lambda: busy.logged("No space left on device"), "the disk full")
        run(busy, "checkpoint-failure", "what-the-worker-says", "No space left on device")
        run(busy, "checkpoint-failure", "room", "100%")
        subprocess.run(["mount", "-o", "remount,size=200m", str(state)], check=True)
        run(busy, "checkpoint-failure", "restart-the-worker")
        run(busy, "checkpoint-failure", "caught-up")
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)
    assert busy.archived() == (6_020, 18_200)


def test_checkpoint_failure_two_workers_one_slot(busy: Deployment):
    busy.stop(busy.worker)
    elsewhere = busy.folder / "copy-of-the-volume"
    shutil.copytree(busy.folder / ".sluicegate" / "state", elsewhere / "state")
    earlier = busy.start()
    busy.publish(100, 10)
    busy.until(lambda: busy.drained(*ALL), "the earlier worker at work")
    busy.start(
        settings={"SLUICEGATE_DATA_DIR": str(elsewhere), "SLUICEGATE_POSTGRES__DSN": busy.postgres_dsn}
    )
    assert earlier.wait(60) != 0
    assert int(run(busy, "checkpoint-failure", "who-was-fenced")) > 0
    run(busy, "checkpoint-failure", "what-the-worker-says", "fenced")
    busy.publish(100, 10)
    run(busy, "checkpoint-failure", "caught-up")
    assert busy.archived() == (220, 2_200)


def test_checkpoint_failure_broken_state(busy: Deployment):
    busy.end(busy.worker)
    busy.publish(100, 10)
    (manifest,) = (busy.folder / ".sluicegate/state/ingest/slot-0/ingest/data").glob("MANIFEST-*")
    manifest.write_bytes(manifest.read_bytes()[:20])
    busy.start()
    busy.until(lambda: busy.drained(*ALL), "the rebuilt worker goes on")
    run(busy, "checkpoint-failure", "what-the-worker-says", "state set aside")
    run(busy, "checkpoint-failure", "what-was-set-aside")
    run(busy, "checkpoint-failure", "remove-what-was-set-aside")
    assert not list((busy.folder / ".sluicegate/state").rglob("unreadable-*"))
    run(busy, "checkpoint-failure", "caught-up")


def test_checkpoint_failure_a_position_that_is_gone(busy: Deployment):
    assert busy.stop(busy.worker) == 0
    group = f"{busy.kafka.topic_prefix}sluicegate.ingest"
    admin = AdminClient(busy.kafka.client_config())

    def deleted() -> bool:
        """Static members stay in the group until their session ends."""
        return all(future.exception() is None for future in admin.delete_consumer_groups([group]).values())

    busy.until(deleted, "the group deleted")
    again = busy.start()
    assert again.wait(60) != 0
    run(busy, "checkpoint-failure", "which-position")


def test_checkpoint_failure_records_that_retention_took(busy: Deployment):
    assert busy.stop(busy.worker) == 0
    busy.publish(300, 10)
    topic = INPUT.named(busy.kafka.topic_prefix)
    admin = AdminClient(busy.kafka.client_config())
    all_of_it = TopicPartition(topic, 0, -1)  # up to the end
    admin.delete_records([all_of_it])[all_of_it].result(20)
    again = busy.start()
    assert again.wait(60) != 0
    run(busy, "checkpoint-failure", "what-the-worker-says", "were deleted before they were handled")
    run(busy, "checkpoint-failure", "what-retention-took")
    run(busy, "checkpoint-failure", "accept-the-loss")
    run(busy, "checkpoint-failure", "gaps-that-were-accepted", "down for longer than retention")
    busy.start()
    run(busy, "checkpoint-failure", "caught-up")
    streams, events = busy.archived()
    assert 20 < streams < 320, "what the other partitions held, and no more"
    assert events == 10 * streams


# -- reconnect-storm ------------------------------------------------------------------------------------


def test_reconnect_storm_of_two_thousand_clients_of_an_edge_that_was_killed(deployment: Deployment, twin):
    clients, port = 2_000, free_port()
    deployment.environment["EDGE"] = f"http://127.0.0.1:{port}"
    streams = [twin.open(f"s-{number}") for number in range(10)]
    edge = deployment.start_edge(port)
    with Swarm([port], [stream.stream_id for stream in streams], clients) as swarm:
        swarm.until(lambda: swarm.have(1) == clients, "all of them connected")
        run(deployment, "reconnect-storm", "is-it-ready", f'"connections":{clients}')
        edge.kill()
        edge.wait(10)
        for stream in streams:
            twin.logs(stream, 20)
        swarm.until(lambda: swarm.connected == 0, "all of them dropped")
        run(deployment, "reconnect-storm", "is-it-ready", "nobody answers at")
        run(deployment, "reconnect-storm", "start-with-fewer")
        swarm.until(lambda: swarm.connected == 500, "as many taken as may be")
        told = run(deployment, "reconnect-storm", "who-comes-and-goes", 'connections{transport="sse"} 500.0')
        assert 'start="overload"' in told
        assert int(run(deployment, "reconnect-storm", "joins-a-second").split()[0]) > 0
        run(deployment, "reconnect-storm", "the-process")
        run(deployment, "reconnect-storm", "reads-of-history")
        run(deployment, "reconnect-storm", "what-the-edge-says")
        run(deployment, "reconnect-storm", "let-all-in")
        with ThreadPoolExecutor(1) as beside:  # most of it is silence
            asked = beside.submit(lambda: run(deployment, "reconnect-storm", "ask-the-proxy"))
            run(deployment, "reconnect-storm", "all-are-back", f'"connections":{clients}')
            asked.result()
        for stream in streams:
            twin.logs(stream, 1)
        swarm.until(lambda: swarm.have(22) == clients, "every event seen by all of them")
        assert swarm.wrong() == {"holes": 0, "doubles": 0}
        assert sum(view.gaps for view in swarm.views) == 0


def test_reconnect_storm_at_an_edge_that_has_keys(deployment: Deployment, twin):
    port = free_port()
    keys = deployment.folder / ".sluicegate" / "access" / "keys.json"
    issue = ("sluicegate", "tokens", "issue", "--scope", "operate", "--scope", "subscribe")
    token = deployment.command(*issue).strip()
    deployment.environment |= {"EDGE": f"http://127.0.0.1:{port}", "SLUICEGATE_ACCESS__KEYS_FILE": str(keys)}
    twin.open("one")
    edge = deployment.start_edge(port)
    url = deployment.environment["EDGE"]
    deployment.until(lambda: is_ready(url), "the edge is ready")
    bearer = {"authorization": f"Bearer {token}"}
    stream_url = f"{url}/v1/streams/one/events"
    assert read_stream(stream_url, headers=bearer, until=lambda seen: bool(seen.events)).seqs == [0]

    code, text = pasted("reconnect-storm", "all-are-back", deployment.environment)
    assert code != 0, "nobody can tell without a token"
    assert "401" in text
    deployment.environment["SLUICEGATE_EDGE__TOKEN"] = token
    run(deployment, "reconnect-storm", "is-it-ready", '"status":"ready"')
    run(deployment, "reconnect-storm", "who-comes-and-goes", 'joins_total{start="open",transport="sse"} 1.0')
    run(deployment, "reconnect-storm", "joins-a-second", "0 joins a second")
    run(deployment, "reconnect-storm", "reads-of-history")
    run(deployment, "reconnect-storm", "all-are-back")
    assert edge.poll() is None


def is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", trust_env=False, verify=False).status_code == 200
    except httpx2.TransportError:
        return False


# -- provider-down, cost-spike --------------------------------------------------------------------------


@pytest.mark.timeout(600)  # some thirty commands, one after another
def test_a_provider_goes_down_and_a_tenant_spends(deployment: Deployment):
    with asked_for_answers(deployment) as model:
        told = deployment.environment
        told |= {"PROVIDER": "main", "MODEL": "big", "STREAM": "default/down-0", "VERSION": "1"}
        model.says("big", "words?fault=overloaded")
        for number in range(3):
            model.ask(f"down-{number}")
        model.calls(3, provider="main", error_class="overloaded")
        model.calls(3, provider="backup", state="completed")
        model.until("SELECT sum(failed)::int FROM sluicegate.llm_windows", 3)

        run(deployment, "provider-down", "which-provider", 'error="overloaded",model="big",provider="main"')
        run(deployment, "provider-down", "how-slow", "main")
        run(deployment, "provider-down", "what-it-said", "default/down-2", "503")
        run(deployment, "provider-down", "one-stream", "main/big", "fallback  backup/small")
        run(deployment, "provider-down", "ask-it", "the provider answered with status 503")
        run(deployment, "provider-down", "which-routes", "default asks main")

        model.says("big", "words?tokens=20&fault=stall&after=3")
        model.ask("hangs")
        model.calls(1, stream_id="hangs", state="started")
        told["STREAM"] = "default/hangs"
        run(deployment, "provider-down", "under-way", "default/hangs")
        run(deployment, "provider-down", "cancel-a-stream", "main/big")
        deployment.until(lambda: model.end("hangs") == "cancelled", "the stream that hung is over")

        run(deployment, "provider-down", "leave-it-out", '-      "target": "main"')
        deployment.until(lambda: deployment.logged('"version":2', deployment.llm_log), "the route in force")
        run(deployment, "provider-down", "a-new-answer", "backup/small")
        run(deployment, "provider-down", "no-more-failures")
        run(deployment, "provider-down", "put-it-back", '+      "target": "main"')
        deployment.until(lambda: deployment.logged('"version":3', deployment.llm_log), "the route put back")

        told["TENANT"] = "acme"
        while 3_600 - time.time() % 3_600 < 90:  # what is spent in one hour bounds nothing in the next
            time.sleep(1)
        model.ask("runs", "acme")
        model.calls(1, stream_id="runs", state="started")
        model.says("big", "words?tokens=20")
        model.ask("dear", "acme")
        model.calls(1, stream_id="dear", state="completed")
        model.until("SELECT sum(completed)::int FROM sluicegate.llm_windows WHERE tenant = 'acme'", 1)

        run(deployment, "cost-spike", "who-spends", "acme")
        run(deployment, "cost-spike", "on-what", "big")
        run(deployment, "cost-spike", "which-streams", "acme/dear", "2.0000")
        run(deployment, "cost-spike", "bound-the-tenant")
        refused = (f"more-{number}" for number in range(1_000))
        deployment.until(lambda: ended(model, next(refused)) == "upstream_error", "the bound in force")
        run(deployment, "cost-spike", "stop-what-runs", "1 of 1 streams were asked to stop")
        deployment.until(lambda: model.end("runs", "acme") == "cancelled", "what ran was stopped")
        model.calls(1, tenant="acme", state="refused")
        run(
            deployment,
            "cost-spike",
            "the-bound-holds",
            "tenant acme: the budget of USD of this hour is spent",
        )
        run(deployment, "cost-spike", "what-it-costs-now", "0.00 USD an hour")
        run(deployment, "cost-spike", "lift-the-bound")


def ended(model: ModelDeployment, stream_id: str) -> str:
    """Ask for one more answer of the tenant, and say how it ended."""
    model.ask(stream_id, "acme")
    while not (reason := model.end(stream_id, "acme")):
        time.sleep(0.1)
    return reason
