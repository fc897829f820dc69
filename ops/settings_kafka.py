"""How to reach Kafka, and how to prove who we are: what fits together, and what would not be used."""

from __future__ import annotations

import re
from pathlib import Path  # noqa: TC003  # pydantic reads it
from typing import Annotated, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from ops.settings_group import Group
from schemas.topics import DAY_MS, TOPICS

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_SERVER: Final = re.compile(
    r"(?:(?:SASL_)?(?:PLAINTEXT|SSL)://)?(?:\[[0-9A-Fa-f:.]+\]|[^\s:/,\[\]]+):[0-9]{1,5}", re.IGNORECASE
)


class _Takes(NamedTuple):
    """Which settings a mechanism of SASL cannot do without, and which it may have."""

    needs: tuple[str, ...]
    may_have: tuple[str, ...] = ()


_PASSWORD: Final = _Takes(("sasl_username", "sasl_password"))
_MECHANISMS: Final = {
    "PLAIN": _PASSWORD,
    "SCRAM-SHA-256": _PASSWORD,
    "SCRAM-SHA-512": _PASSWORD,
    "OAUTHBEARER": _Takes(
        (
            "sasl_oauthbearer_client_id",
            "sasl_oauthbearer_client_secret",
            "sasl_oauthbearer_token_endpoint_url",
        ),
        ("sasl_oauthbearer_scope", "sasl_oauthbearer_extensions", "https_ca_location"),
    ),
    "GSSAPI": _Takes(("sasl_kerberos_principal", "sasl_kerberos_keytab"), ("sasl_kerberos_service_name",)),
}
_OF_SASL: Final = tuple(
    dict.fromkeys(name for takes in _MECHANISMS.values() for name in takes.needs + takes.may_have)
)


class KafkaSettings(Group):
    """Where Kafka is, and how to speak to it."""

    bootstrap_servers: str | None = Field(default=None, description="host:port,…; none = local stack")
    topic_prefix: str = Field(
        default="", pattern=r"^[A-Za-z0-9._-]*$", description="before topics and groups"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_oauthbearer_client_id: str | None = None
    sasl_oauthbearer_client_secret: SecretStr | None = None
    sasl_oauthbearer_token_endpoint_url: str | None = Field(
        default=None, description="where the issuer gives tokens for id and secret"
    )
    sasl_oauthbearer_scope: str | None = Field(default=None, description="asked for with the token")
    sasl_oauthbearer_extensions: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z]+=[^,=]+(,[A-Za-z]+=[^,=]+)*$",
        description="name=value,… to the broker",
    )
    https_ca_location: Path | None = Field(default=None, description="PEM: who made the issuer's certificate")
    sasl_kerberos_principal: str | None = Field(  # it stands in the words of kinit, which a shell reads
        default=None, pattern=r"^[A-Za-z0-9._/@-]+$", description="name@REALM"
    )
    sasl_kerberos_keytab: Path | None = None
    sasl_kerberos_service_name: str | None = Field(default=None, description="the brokers'; none = kafka")
    ssl_ca_location: Path | None = Field(default=None, description="PEM; none = the machine's authorities")
    ssl_certificate_location: Path | None = Field(default=None, description="PEM: our own certificate")
    ssl_key_location: Path | None = Field(default=None, description="PEM: its private key")
    ssl_key_password: SecretStr | None = None
    create_topics: bool = Field(default=True, description="create missing topics of the table at start")
    retention_days: dict[str, Annotated[float, Field(ge=1 / 24, le=36_500)]] = Field(
        default_factory=dict, description='days by topic, {"llm.contents.v1": 7}; else as the table says'
    )

    @field_validator("bootstrap_servers")
    @classmethod
    def _are_hosts_with_ports(cls, value: str | None) -> str | None:
        for server in filter(None, map(str.strip, (value or "").split(","))):
            if not _SERVER.fullmatch(server):
                msg = f"{server[:200]!r} is no host:port, as in kafka-1.example:9092,kafka-2.example:9092"
                raise ValueError(msg)
        return value

    @field_validator("security_protocol", "sasl_mechanism", mode="before")
    @classmethod
    def _in_capitals(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator(
        "ssl_ca_location",
        "ssl_certificate_location",
        "ssl_key_location",
        "https_ca_location",
        "sasl_kerberos_keytab",
    )
    @classmethod
    def _is_there(cls, value: Path | None) -> Path | None:
        if value is not None and not value.exists():
            msg = f"there is no file {value}"
            raise ValueError(msg)
        return value

    @field_validator("retention_days")
    @classmethod
    def _delete_by_time(cls, value: dict[str, float]) -> dict[str, float]:
        may = {spec.name for spec in TOPICS if spec.retention_ms >= 0}
        for name in value:
            if name not in may:
                msg = f"{name[:80]!r} is no topic of ours that deletes by time: {', '.join(sorted(may))}"
                raise ValueError(msg)
        return value

    @field_validator("sasl_oauthbearer_token_endpoint_url")
    @classmethod
    def _keeps_the_secret(cls, value: str | None) -> str | None:
        if value is None:
            return value
        url = urlsplit(value)
        if url.username or url.password:
            msg = "it holds a name or a password: they are settings of their own"
            raise ValueError(msg)
        is_safe = url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK)
        if not url.hostname or not is_safe:
            msg = "it must be https://…, or http:// on this machine: the secret is sent there"
            raise ValueError(msg)
        return value

    @property
    def retention_ms(self) -> dict[str, int]:
        """The same in milliseconds, as Kafka counts."""
        return {name: int(days * DAY_MS) for name, days in self.retention_days.items()}

    @model_validator(mode="after")
    def _fit_together(self) -> KafkaSettings:
        given = [name for name in ("sasl_mechanism", *_OF_SASL) if getattr(self, name)]
        if not self.security_protocol.startswith("SASL_"):
            if given:
                msg = (
                    f"security_protocol={self.security_protocol} takes no {_variables(given)}; "
                    "SASL_SSL or SASL_PLAINTEXT do"
                )
                raise ValueError(msg)
            return self
        takes = _MECHANISMS.get(self.sasl_mechanism or "", _PASSWORD)
        missing = [name for name in ("sasl_mechanism", *takes.needs) if name not in given]
        if missing:
            by = f" with {self.sasl_mechanism}" if self.sasl_mechanism else ""
            msg = f"security_protocol={self.security_protocol}{by} needs {_variables(missing)} too"
            raise ValueError(msg)
        unused = [name for name in given[1:] if name not in takes.needs + takes.may_have]
        if unused:
            # Taken and not used, they would let one login pass for another.
            msg = f"sasl_mechanism={self.sasl_mechanism} takes no {_variables(unused)}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _certificates_fit_together(self) -> KafkaSettings:
        ssl = {
            "SLUICEGATE_KAFKA__SSL_CA_LOCATION": self.ssl_ca_location,
            "SLUICEGATE_KAFKA__SSL_CERTIFICATE_LOCATION": self.ssl_certificate_location,
            "SLUICEGATE_KAFKA__SSL_KEY_LOCATION": self.ssl_key_location,
            "SLUICEGATE_KAFKA__SSL_KEY_PASSWORD": self.ssl_key_password,
        }
        given = [name for name, value in ssl.items() if value]
        if given and not self.security_protocol.endswith("SSL"):
            # Taken and not used, they would let a connection in the clear pass for a safe one.
            msg = (
                f"security_protocol={self.security_protocol} takes no {', '.join(given)}; SSL or SASL_SSL do"
            )
            raise ValueError(msg)
        _, certificate, key, password = ssl.values()
        if bool(certificate) != bool(key) or (password and not key):
            msg = "a certificate of our own needs SSL_CERTIFICATE_LOCATION and SSL_KEY_LOCATION, both"
            raise ValueError(msg)
        return self


def _variables(names: list[str]) -> str:
    return ", ".join(f"SLUICEGATE_KAFKA__{name.upper()}" for name in names)
