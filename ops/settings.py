"""The one place that reads the environment; everything below it takes frozen options."""

from __future__ import annotations

import json
import os
import re
from decimal import Decimal  # noqa: TC003  # pydantic reads it
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from connectors.kafka.ports import ATTEMPTS_MAX, HANDOVER_BYTES_MAX
from edge.access.options import AUDIENCE
from edge.options import TCP_USER_TIMEOUT_MS_MIN
from ops.settings_group import Group
from ops.settings_kafka import KafkaSettings as KafkaSettings  # noqa: PLC0414  # whoever has settings, has it
from pipelines.options import bound_problems, time_out_problems
from schemas.topics import MIB
from state.budget import StateOptions
from state.checkpoint import UNIT_BYTES_MAX, UNIT_RECORDS_MAX

_STATE = StateOptions()
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::[0-9]{1,5})?")


def _listed(value: object) -> object:
    """Return the names of a text: with commas between them, or a JSON list."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [name.strip() for name in value.split(",") if name.strip()]


def is_base_url(text: str) -> bool:
    """Whether it is an address of HTTP to which paths can be added: scheme://host, scheme://host:port/path."""
    import httpx2

    try:
        parts, _ = urlsplit(text), httpx2.URL(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx2.InvalidURL):  # a port or a host that cannot be
        return False


class RegistrySettings(Group):
    """Where the schema registry is."""

    url: str | None = Field(default=None, description="base of the Confluent API; none = local stack")
    register_schemas: bool = Field(default=True, description="register missing schemas at start")


class PostgresSettings(Group):
    """Where the archive is written."""

    dsn: SecretStr | None = Field(default=None, description="libpq connection string; none = local stack")
    connections_days: int = Field(
        30,
        ge=1,
        le=36_500,
        description="how long it keeps to whom streams were delivered, by address and sub",
    )


class StackSettings(Group):
    """The local stack's ports and memory; port 0 takes a free one."""

    kafka_port: int = Field(0, ge=0, le=65535)
    registry_port: int = Field(0, ge=0, le=65535)
    postgres_port: int = Field(0, ge=0, le=65535)
    model_port: int = Field(0, ge=0, le=65535)
    kafka_heap_mb: int = Field(512, ge=256)
    kafka_group_wait_ms: int = Field(
        0, ge=0, le=60_000, description="how long a new group's first member waits for others"
    )
    registry_heap_mb: int = Field(256, ge=128)
    start_timeout_ms: int = Field(120_000, ge=5_000, description="longest that one part may take to answer")
    maven_repository: str | None = Field(
        default=None, pattern="^https?://", description="base URL of a mirror to download from"
    )


class EdgeSettings(Group):
    """Where the edge listens, or where a running one is found."""

    host: str = "127.0.0.1"
    port: int = Field(8600, ge=0, le=65535, description="0 takes a free port")
    grpc_port: int | None = Field(
        default=None,
        ge=-1,
        le=65535,
        description="0 takes a free port, -1 = no gRPC; none = the one after HTTP's, or a free one",
    )
    url: str | None = Field(default=None, description="a running edge; none = this folder's")
    token: SecretStr | None = Field(
        default=None, description="what `tail`, `publish`, `exec` and `record` bring to an edge with keys"
    )
    allow_network: bool = Field(
        default=False,
        description="bind any address without keys: only where something in front keeps strangers out",
    )
    processes: int = Field(1, ge=1, le=64, description="how many share the address, a core each")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="names besides loopback's that it answers to, with commas or as a JSON list"
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="addresses or networks of proxies whose X-Forwarded-For is believed, with commas"
    )
    drain_ms: int = Field(5_000, ge=0, le=300_000, description="over how long a stop sends clients away")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="sites whose pages may use it (https://app.example), with commas; * = all"
    )
    connections_max: int = Field(10_000, ge=1, description="connections that stream, of one process")
    retry_ms: int = Field(
        1_000, ge=100, le=60_000, description="twice to four times that is told to clients it cannot take"
    )
    tenant_connections_max: int = Field(
        0, ge=0, description="of one tenant, over all processes; 0 = all of them"
    )
    tenant_events_per_s_max: int = Field(
        0, ge=0, description="events that a tenant may publish, over all processes; 0 = as many as they take"
    )
    header_bytes_max: int = Field(16_384, ge=1_024, le=65_536, description="of a request's head")
    headers_max: int = Field(100, ge=10, le=1_000, description="headers of a request")
    tcp_user_timeout_ms: int = Field(
        45_000, ge=0, le=3_600_000, description="what was sent may go unconfirmed; 0 = the kernel's own"
    )
    grpc_connection_idle_ms: int = Field(
        300_000, ge=10_000, le=86_400_000, description="a connection of gRPC without a call is closed then"
    )

    @field_validator("url")
    @classmethod
    def _is_base_url(cls, value: str | None) -> str | None:
        if value and not is_base_url(value):
            msg = "it is no address of an edge, which looks like https://streams.example"
            raise ValueError(msg)
        return value

    @field_validator("tcp_user_timeout_ms")
    @classmethod
    def _is_after_the_policy(cls, value: int) -> int:
        if 0 < value < TCP_USER_TIMEOUT_MS_MIN:
            msg = (
                f"it is 0 or {TCP_USER_TIMEOUT_MS_MIN} and more: who lives and takes nothing for 30 seconds "
                "is to be told why it is sent away"
            )
            raise ValueError(msg)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                msg = f"{origin} is no origin: scheme://host, or scheme://host:port, in small letters"
                raise ValueError(msg)
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            ip_network(one)  # its own error says what is wrong
        return value

    @field_validator("allowed_hosts", "trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return _listed(value)


class AccessSettings(Group):
    """By which tokens the edge knows who asks; without keys it binds this machine alone."""

    keys_file: Path | None = Field(default=None, description="public keys, PEM or JWKS; read again on change")
    jwks_url: str = Field("", pattern="^(https?://.+)?$", description="where an issuer publishes its keys")
    secret_file: Path | None = Field(default=None, description="secret of HS256, 32 bytes or more")
    issuer: str = Field("", description="what a token's iss must be; needed with jwks_url")
    audience: str = Field(AUDIENCE, min_length=1, description="what a token's aud must hold")
    leeway_ms: int = Field(5_000, ge=0, le=300_000, description="by how much clocks may differ")
    keys_refresh_ms: int = Field(
        300_000, ge=1_000, le=86_400_000, description="how often the JWKS is fetched"
    )
    keys_retry_ms: int = Field(10_000, ge=100, le=600_000, description="shortest time between two fetches")
    cookie: str = Field("", pattern="^[A-Za-z0-9_-]*$", description="cookie that may hold a token; none = no")
    query_token: bool = Field(default=False, description="take ?access_token=, which ends in others' logs")
    expiry_warning_ms: int = Field(60_000, ge=0, description="how long before its end a client is told")
    revocations_max: int = Field(100_000, ge=1, description="revocations that an edge holds")

    @model_validator(mode="after")
    def _fit_together(self) -> AccessSettings:
        if self.jwks_url and not self.issuer:
            msg = "access.jwks_url needs access.issuer: the same keys may sign for others"
            raise ValueError(msg)
        return self


class WorkerSettings(Group):
    """Bounds of a worker's unit of work, and its time-outs."""

    commit_interval_ms: int = Field(100, ge=1, le=5_000, description="longest age of an open unit of work")
    transaction_timeout_ms: int = Field(10_000, ge=1_000, le=900_000)
    assignment: Literal["range", "cooperative-sticky", "consumer"] = Field(
        "range", description="who gives partitions to workers: the classic protocol, or the broker (consumer)"
    )
    session_timeout_ms: int = Field(6_000, ge=1_000)
    max_poll_interval_ms: int = Field(60_000, ge=1_000)
    chunk_events_max: int = Field(2_000, ge=1, le=50_000)
    stall_ms_max: int = Field(5_000, ge=100, description="longest an agent may hold one unit of work")
    unit_records_max: int = Field(
        UNIT_RECORDS_MAX, ge=1, description="records of outputs and changelog at which a unit of work ends"
    )
    unit_mb_max: int = Field(
        UNIT_BYTES_MAX // MIB, ge=1, description="or their keys and values at which it does"
    )
    handover_mb_max: int = Field(
        HANDOVER_BYTES_MAX // MIB,
        ge=1,
        le=1_024,
        description="of records given to agents and not handled yet; as much is fetched ahead of them",
    )
    attempts_max: int = Field(
        3, ge=1, le=ATTEMPTS_MAX, description="of an event that fails, before its agent's policy"
    )
    retry_backoff_ms: int = Field(100, ge=1, description="first pause before what failed is tried again")
    retry_backoff_ms_max: int = Field(
        10_000, ge=1, le=600_000, description="the longest one: each is twice the one before"
    )
    at_least_once: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="roles that may handle an event again after a failure, for less latency; with commas"
    )
    identity: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]*$", description="names a worker without a kept folder (pod name)"
    )
    web_host: str = Field("127.0.0.1", description="address of the workers' web: health and metrics")
    web_advertised_host: str = Field(
        "", pattern=r"^[A-Za-z0-9.:_-]*$", description="under which other workers reach it; none = web_host"
    )
    web_port: int = Field(
        0, ge=0, le=65532, description="first port of a worker's web, one a role in their order; 0 = none"
    )

    @field_validator("at_least_once", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return _listed(value)

    @model_validator(mode="after")
    def _fit_together(self) -> WorkerSettings:
        problems = time_out_problems(self, at_least_once=bool(self.at_least_once)) + bound_problems(self)
        if problems:
            raise ValueError("; ".join(f"worker.{problem}" for problem in problems))
        return self


class StateSettings(Group):
    """What the stores of one role's process may use together; each role of a worker has as much."""

    block_cache_mb: int = Field(
        _STATE.block_cache_mb, description="read blocks, and the write buffers, counted into it"
    )
    write_buffer_mb: int = Field(
        _STATE.write_buffer_mb, description="writes not on the disk yet; at most half of the cache"
    )
    open_files_max: int = Field(_STATE.open_files_max, description="files of all stores together")
    queries: Literal["loopback", "network", "off"] = Field(
        "loopback",
        description="who may read state by HTTP: this machine, whoever reaches the port, or nobody",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> StateSettings:
        StateOptions(self.block_cache_mb, self.write_buffer_mb, self.open_files_max)
        return self


class ProviderSettings(Group):
    """One provider of language models; of a well-known name (openai, anthropic, gemini) a key is enough."""

    shape: Literal["openai-chat", "openai-responses", "anthropic", "gemini", "ollama"] | None = Field(
        default=None, description="its wire shape; none = as its name is known for, else openai-chat"
    )
    base_url: str | None = Field(default=None, description="up to the path that the shape adds, as …/v1")
    api_key: SecretStr | None = None
    api_key_env: str | None = Field(
        default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="environment variable that has the key"
    )
    api_key_file: Path | None = Field(default=None, description="file that has the key, as a mounted secret")
    headers: dict[str, SecretStr] = Field(default_factory=dict, description="sent with each call")
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="what the route of no record asks for: the first by default; none = any that is named"
    )
    priced_as: str = Field("", description="its name in genai-prices; empty = found by base_url")
    allow_http: bool = Field(
        default=False, description="a key may cross the network in the clear: only where nobody listens"
    )

    @field_validator("models", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return _listed(value)

    def key(self) -> SecretStr | None:
        """The key, from wherever it is; raises LookupError with what is missing."""
        ways = ("api_key", "api_key_env", "api_key_file")
        given = [name.upper() for name in ways if getattr(self, name)]
        if len(given) > 1:
            raise LookupError(f"{' and '.join(given)} are set: one of them is enough")
        if self.api_key_env:
            found = os.environ.get(self.api_key_env, "").strip()
            if not found:
                raise LookupError(f"API_KEY_ENV: the environment has no {self.api_key_env}")
            return SecretStr(found)
        if self.api_key_file:
            try:
                found = self.api_key_file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise LookupError(f"API_KEY_FILE: {self.api_key_file} cannot be read: {error}") from None
            if not found:
                raise LookupError(f"API_KEY_FILE: {self.api_key_file} is empty")
            return SecretStr(found)
        return self.api_key


class PriceSettings(Group):
    """A price of one's own, in USD for a million tokens."""

    input_usd: Decimal = Field(ge=0)
    output_usd: Decimal = Field(ge=0)
    cached_input_usd: Decimal | None = Field(default=None, ge=0, description="none = as input_usd")
    cache_write_usd: Decimal | None = Field(default=None, ge=0, description="none = as input_usd")
    input_image_usd: Decimal | None = Field(
        default=None, ge=0, description="none = as input_usd, and estimated"
    )
    cache_write_1h_usd: Decimal | None = Field(default=None, ge=0, description="none = not known")
    input_audio_usd: Decimal | None = Field(default=None, ge=0, description="none = not known")
    cached_audio_usd: Decimal | None = Field(default=None, ge=0, description="none = as input_audio_usd")
    output_audio_usd: Decimal | None = Field(default=None, ge=0, description="none = not known")
    output_image_usd: Decimal | None = Field(default=None, ge=0, description="none = not known")


class LlmSettings(Group):
    """Providers of language models, and the worker that asks them."""

    providers: dict[str, ProviderSettings] = Field(
        default_factory=dict, max_length=32, description="by name, in the order in which they are tried"
    )
    prices: dict[str, PriceSettings] = Field(
        default_factory=dict, max_length=1_000, description="by PROVIDER/MODEL or PROVIDER/*"
    )
    identity: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]*$", description="names a worker without a kept folder (pod name)"
    )
    calls_max: int = Field(256, ge=1, le=10_000, description="calls in flight of one worker")
    queue_ms_max: int = Field(
        30_000, ge=100, le=86_400_000, description="longest that a request may wait for a worker"
    )
    flush_ms: int = Field(40, ge=1, le=1_000, description="deltas are sent together for so long")
    flush_bytes: int = Field(1_024, ge=1, le=262_144, description="or until they are so many")
    drain_ms: int = Field(20_000, ge=0, le=600_000, description="how long calls may end when it is stopped")
    session_timeout_ms: int = Field(
        10_000, ge=1_000, description="after it others take over; well below queue_ms_max"
    )
    transaction_timeout_ms: int = Field(15_000, ge=1_000, le=60_000)
    gate_functions: Annotated[tuple[str, ...], NoDecode] = Field(
        (), max_length=32, description="gates in code that routes may name: module:name, with commas between"
    )
    content_days: int = Field(
        30,
        ge=0,
        le=36_500,
        description="how long PostgreSQL keeps inputs and outputs, where routes keep any",
    )
    web_host: str = Field("127.0.0.1", description="address of the worker's web: health and metrics")
    web_port: int = Field(0, ge=0, le=65_535, description="its port; 0 = none")

    @field_validator("gate_functions", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return _listed(value)

    @field_validator("providers")
    @classmethod
    def _are_names(cls, value: dict[str, ProviderSettings]) -> dict[str, ProviderSettings]:
        for name in value:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", name):
                msg = f"{name[:80]!r} is no name of a provider: 1 to 64 of a-z 0-9 _ . -"
                raise ValueError(msg)
        return value


class Settings(BaseSettings):
    """All settings; each is an environment variable ``SLUICEGATE_<GROUP>__<NAME>``."""

    model_config = SettingsConfigDict(
        env_prefix="SLUICEGATE_",
        env_nested_delimiter="__",
        env_file=".env",
        extra="ignore",
        hide_input_in_errors=True,
    )

    data_dir: Path = Field(Path(".sluicegate"), description="what a running sluicegate keeps on this disk")
    cache_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("sluicegate")), description="downloads"
    )
    pipelines: Path | None = Field(
        default=None, description="folder of agents of your own; none = ours alone"
    )
    kafka: KafkaSettings = KafkaSettings()
    registry: RegistrySettings = RegistrySettings()
    postgres: PostgresSettings = PostgresSettings()
    stack: StackSettings = StackSettings()
    edge: EdgeSettings = EdgeSettings()
    access: AccessSettings = AccessSettings()
    worker: WorkerSettings = WorkerSettings()
    state: StateSettings = StateSettings()
    llm: LlmSettings = LlmSettings()
