"""Where the parts are: what the settings name, else what runs from this folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

import psutil
from pydantic import SecretStr

from ops.errors import NoEdge, NoStack

if TYPE_CHECKING:
    from pathlib import Path

    from connectors.kafka.options import KafkaOptions
    from connectors.postgres.options import PostgresOptions
    from ops.settings import Settings
    from ops.stack.addresses import Addresses


@dataclass(frozen=True, slots=True)
class LocalModel:
    """The model of `sluicegate up --model`."""

    base_url: str
    key: str = field(repr=False)
    name: str


def edge_file(settings: Settings) -> Path:
    """Where a running edge leaves its address."""
    return settings.data_dir / "edge.json"


def edge_url(settings: Settings, *, pid: int | None = None) -> str:
    """Base URL of the edge; raises NoEdge if none is configured and none runs from this folder.

    ``pid`` asks for one process and no other: an earlier edge may have left its address behind.
    """
    if settings.edge.url:
        return settings.edge.url.rstrip("/")
    file = edge_file(settings)
    remedy = "start one with `sluicegate edge` (or all with `sluicegate demo`), or set SLUICEGATE_EDGE__URL"
    try:
        running = json.loads(file.read_bytes())
        url, found = str(running["url"]), int(running["pid"])
    except FileNotFoundError:
        raise NoEdge(f"no edge runs from this folder ({file} is missing)", remedy) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoEdge(f"{file} cannot be read: {error}", remedy) from None
    if not psutil.pid_exists(found) or pid not in (None, found):
        raise NoEdge(f"the edge that ran from this folder (process {found}) is gone", remedy)
    return url.rstrip("/")


def edge_token(settings: Settings) -> str | None:
    """The token that a command brings to an edge with keys, if one is set."""
    token = settings.edge.token
    return token.get_secret_value() if token is not None else None


def console_page(url: str, tenant: str, stream_id: str) -> str:
    """Where a person sees one stream: the page reads its name behind the ``#``, and nothing of the query."""
    return f"{url}/console#{quote(tenant, safe='')}/{quote(stream_id, safe='')}"


def addresses(settings: Settings) -> Addresses:
    """Where Kafka, the registry and PostgreSQL are: of the settings, else of the stack that runs here.

    PostgreSQL may be missing (an empty DSN): only the archive needs it. The stack's counts as long as its
    record does, though its process may be gone: it is away then, and not left out. Raises NoStack if
    nothing says where Kafka or the registry is.
    """
    from ops.stack.addresses import Addresses
    from ops.stack.state import read_state

    parts = read_state(settings.data_dir.absolute())

    def of_stack(name: str, *, gone: bool = False) -> str:
        part = parts.get(name)
        return part.address if part is not None and (gone or part.process.runs) else ""

    dsn = settings.postgres.dsn
    found = Addresses(
        kafka=settings.kafka.bootstrap_servers or of_stack("kafka"),
        registry_url=settings.registry.url or of_stack("registry"),
        postgres_dsn=dsn.get_secret_value() if dsn is not None else of_stack("postgres", gone=True),
    )
    for address, part, variable in (
        (found.kafka, "Kafka", "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS"),
        (found.registry_url, "the schema registry", "SLUICEGATE_REGISTRY__URL"),
    ):
        if not address:
            raise NoStack(
                f"no local stack runs from this folder, and no address of {part} is set",
                f"start one with `sluicegate up`, or set {variable}",
            )
    return found


def archive_options(settings: Settings, what: str, name: str, also: str = "") -> PostgresOptions:
    """Where the archive is read, by a command of a name; raises NoStack if nothing says where it is.

    ``what`` is needed of it, and ``also`` what could be done besides: both stand in the error.
    """
    from connectors.postgres.options import PostgresOptions

    dsn = settings.postgres.dsn.get_secret_value() if settings.postgres.dsn is not None else ""
    remedy = "set SLUICEGATE_POSTGRES__DSN, or run `sluicegate up`" + (f"; {also}" if also else "")
    try:
        dsn = dsn or addresses(settings).postgres_dsn
    except NoStack as error:
        raise NoStack(f"{what}, and none is known: {error}", remedy) from None
    if not dsn:
        raise NoStack(f"{what}, and none is configured", remedy)
    return PostgresOptions(dsn, application_name=f"sluicegate-{name}")


def local_model(settings: Settings) -> LocalModel | None:
    """Where the local model that runs from this folder is asked, and its key; None if none does."""
    from ops.stack.model import NAME, key_file
    from ops.stack.parts import MODEL
    from ops.stack.state import read_state

    data_dir = settings.data_dir.absolute()
    part = read_state(data_dir).get(MODEL.name)
    if part is None or not part.process.runs:
        return None
    try:
        key = key_file(data_dir / MODEL.name).read_text(encoding="ascii").strip()
    except OSError:
        return None  # another user's: it would not answer
    return LocalModel(part.address, key, NAME)


def kafka_options(settings: Settings, bootstrap_servers: str) -> KafkaOptions:
    """What a Kafka client is told: address, prefix and how to prove who it is."""
    from connectors.kafka.options import KafkaOptions

    kafka = settings.kafka
    security: dict[str, object | None] = {
        "security.protocol": kafka.security_protocol,
        "sasl.mechanism": kafka.sasl_mechanism,
        "sasl.username": kafka.sasl_username,
        "sasl.password": kafka.sasl_password,
        "sasl.oauthbearer.method": "oidc" if kafka.sasl_mechanism == "OAUTHBEARER" else None,
        "sasl.oauthbearer.client.id": kafka.sasl_oauthbearer_client_id,
        "sasl.oauthbearer.client.secret": kafka.sasl_oauthbearer_client_secret,
        "sasl.oauthbearer.token.endpoint.url": kafka.sasl_oauthbearer_token_endpoint_url,
        "sasl.oauthbearer.scope": kafka.sasl_oauthbearer_scope,
        "sasl.oauthbearer.extensions": kafka.sasl_oauthbearer_extensions,
        "https.ca.location": kafka.https_ca_location,
        "sasl.kerberos.principal": kafka.sasl_kerberos_principal,
        "sasl.kerberos.keytab": kafka.sasl_kerberos_keytab,
        "sasl.kerberos.service.name": kafka.sasl_kerberos_service_name,
        "ssl.ca.location": kafka.ssl_ca_location,
        "ssl.certificate.location": kafka.ssl_certificate_location,
        "ssl.key.location": kafka.ssl_key_location,
        "ssl.key.password": kafka.ssl_key_password,
    }
    return KafkaOptions(
        bootstrap_servers=bootstrap_servers,
        topic_prefix=kafka.topic_prefix,
        retention_ms=kafka.retention_ms,
        security={
            name: value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in security.items()
            if value is not None
        },
    )
