"""A Kafka of a test's own that lets nobody in unproven: TLS, SCRAM, certificates, ACLs."""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from connectors.kafka.options import KafkaOptions
from ops.stack.kafka import KafkaService
from ops.stack.logs import last_lines
from ops.stack.parts import KAFKA
from ops.stack.ports import LOOPBACK, free_port
from ops.stack.process import start_detached, stop

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ops.stack.cache import Cache
    from ops.stack.process import ProcessRecord

ADMIN: Final = "admin"
_START_S: Final = 120.0
_PLAIN: Final = "org.apache.kafka.common.security.plain.PlainLoginModule"
_BEARER: Final = (
    "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
    'unsecuredLoginStringClaim_sub="broker";'
)
_RESOURCES: Final = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
}

_OPERATIONS: Final = {operation.name.replace("_", ""): operation for operation in AclOperation}


class Authority:
    """A certificate authority that nobody else trusts."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = _named("sluicegate test authority")
        self._certificate = (
            _builder(name, name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = folder / "ca.pem"
        self.file.write_bytes(self._certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, password: str = "") -> tuple[Path, Path]:
        """Make a certificate of ``name`` that is also good for the loopback; give its file and its key's."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.IPAddress(ipaddress.ip_address(LOOPBACK)), x509.DNSName("localhost")]
        certificate = (
            _builder(_named(name), self._certificate.subject, key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        files = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        hidden = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden))
        return files


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )


@dataclass(frozen=True)
class SecuredService(KafkaService):
    """The local stack's Kafka behind other listeners; ``words`` are the principals' passwords."""

    certificates: Path = None  # type: ignore[assignment]  # a base with defaults wants one
    words: Mapping[str, str] = field(default_factory=dict, repr=False)
    certificate_port: int = 0

    def _config(self) -> Mapping[str, str]:
        broker = f'username="broker" password="{self.words["broker"]}";'
        users = " ".join(f'user_{name}="{word}"' for name, word in self.words.items())
        scram = f"org.apache.kafka.common.security.scram.ScramLoginModule required {broker}"
        listeners = {
            "SASL_SSL": self.port,
            "CERTIFIED": self.certificate_port,
            "CONTROLLER": self.controller_port,
        }
        addresses = {name: f"{name}://{LOOPBACK}:{port}" for name, port in listeners.items()}
        return {
            **super()._config(),
            "listeners": ",".join(addresses.values()),
            "advertised.listeners": f"{addresses['SASL_SSL']},{addresses['CERTIFIED']}",
            "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CERTIFIED:SSL,CONTROLLER:SSL",
            "inter.broker.listener.name": "SASL_SSL",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,SCRAM-SHA-256,PLAIN,OAUTHBEARER",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": scram,
            "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f"{_PLAIN} required {users};",
            # Kafka's own validator for tests, which believes a token without a signature.
            "listener.name.sasl_ssl.oauthbearer.sasl.jaas.config": _BEARER,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.certificates / "keystore.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.certificates / "ca.pem"),
            # Of the two listeners without passwords; a certificate's common name is the principal.
            "listener.name.certified.ssl.client.auth": "required",
            "listener.name.controller.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^CN=(.*?)$/$1/,DEFAULT",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "false",
            "super.users": f"User:broker;User:{ADMIN}",
        }

    def _format_options(self) -> tuple[str, ...]:
        users = [
            f"{mechanism}=[name={name},password={word},iterations=4096]"
            for mechanism in ("SCRAM-SHA-512", "SCRAM-SHA-256")
            for name, word in self.words.items()
        ]
        return tuple(word for user in users for word in ("--add-scram", user))


class SecuredKafka:
    """The broker, running from ``with`` to its end; each of ``principals`` has a password of its own."""

    def __init__(self, folder: Path, cache: Cache, principals: Iterable[str]) -> None:
        self.words = {name: secrets.token_hex(12) for name in ("broker", ADMIN, *principals)}
        self.authority = Authority(folder / "certificates")
        certificate, key = self.authority.issue("broker")
        keystore = folder / "certificates" / "keystore.pem"
        keystore.write_bytes(key.read_bytes() + certificate.read_bytes() + self.authority.file.read_bytes())
        taken: set[int] = set()
        ports = []
        for _ in range(3):
            ports.append(free_port(taken))
            taken.add(ports[-1])
        self._service = SecuredService(
            folder=folder / "kafka",
            cache_folder=cache.folder(KAFKA.name),
            jars=tuple(cache.jars(KAFKA.name)),
            port=ports[0],
            controller_port=ports[1],
            certificate_port=ports[2],
            heap_mb=384,
            certificates=folder / "certificates",
            words=self.words,
        )
        self._log = folder / "kafka.log"
        self._process: ProcessRecord | None = None

    @property
    def address(self) -> str:
        """Where a principal comes in with a password."""
        return self._service.address

    @property
    def certified_address(self) -> str:
        """Where a principal comes in with a certificate."""
        return f"{LOOPBACK}:{self._service.certificate_port}"

    def __enter__(self) -> Self:
        self._service.prepare()
        launch = self._service.launch()
        self._process = start_detached(launch.command, log=self._log, cwd=launch.cwd, env=launch.env)
        deadline = time.monotonic() + _START_S
        while not self._answers():
            wrote = "\n".join(last_lines(self._log))
            assert self._process.runs, f"it ended:\n{wrote}"
            assert time.monotonic() < deadline, f"it does not answer:\n{wrote}"
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            stop(self._process, ask=signal.SIGKILL, patience_s=10)

    def _answers(self) -> bool:
        try:
            return bool(self.admin().list_topics(timeout=1.0).brokers)
        except KafkaException:
            return False

    def settings(self, principal: str, word: str | None = None) -> dict[str, str]:
        """Environment variables with which ``principal`` comes in."""
        return {
            "SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS": self.address,
            "SLUICEGATE_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
            "SLUICEGATE_KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
            "SLUICEGATE_KAFKA__SASL_USERNAME": principal,
            "SLUICEGATE_KAFKA__SASL_PASSWORD": self.words[principal] if word is None else word,
            "SLUICEGATE_KAFKA__SSL_CA_LOCATION": str(self.authority.file),
        }

    def options(self, principal: str = ADMIN, topic_prefix: str = "") -> KafkaOptions:
        """The same for a client of the test's own."""
        return KafkaOptions(
            bootstrap_servers=self.address,
            topic_prefix=topic_prefix,
            security={
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": principal,
                "sasl.password": self.words[principal],
                "ssl.ca.location": str(self.authority.file),
            },
        )

    def admin(self) -> AdminClient:
        """A client that may do everything."""
        return AdminClient(self.options().client_config() | {"log_level": 0})

    def allow(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add the rows of `sluicegate topics acls --json`."""
        bindings = [AclBinding(*_acl(row)) for row in rows]
        admin = self.admin()
        for future in admin.create_acls(bindings, request_timeout=10).values():
            future.result()

    def forbid(self, row: Mapping[str, Any]) -> None:
        """Take a row away again."""
        admin = self.admin()
        (future,) = admin.delete_acls([AclBindingFilter(*_acl(row))], request_timeout=10).values()
        assert len(future.result()) == 1


def _acl(row: Mapping[str, Any]) -> tuple[Any, ...]:
    prefixed = row["pattern"] == "prefixed"
    return (
        _RESOURCES[row["resource"]],
        row["name"],
        ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL,
        row["principal"],
        "*",
        _OPERATIONS[row["operation"].upper()],
        AclPermissionType.ALLOW,
    )
