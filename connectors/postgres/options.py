"""How the archive reaches PostgreSQL, and how long it waits for what."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from connectors.postgres.errors import SinkUnfit

_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class PostgresOptions:
    """Options of one sink; all waits are bounded, innermost first.

    A lock is given up before its statement, a statement before the client gives up waiting for the answer,
    so that the cause that is told is the true one. The session keeps settings: a pooler in front must keep
    sessions too (PgBouncer: `pool_mode = session`).
    """

    dsn: str = field(repr=False)
    """libpq URI or key=value string; holds the password, so it is never shown."""
    sink: str = "archive"
    """Name under which positions are kept; two deployments on one schema need two names."""
    schema: str = "sluicegate"
    application_name: str = "sluicegate-archive"
    connect_timeout_s: int = 3
    """For each address of the DSN; libpq knows whole seconds, two at least."""
    lock_timeout_ms: int = 2_000
    statement_timeout_ms: int = 4_000
    answer_timeout_ms: int = 5_000
    """Longest wait for an answer of a server that is frozen or cut off; then the connection is dropped."""
    idle_in_transaction_timeout_ms: int = 5_000
    """After this the server ends the transaction of a stopped worker, which frees its partition's row."""
    migration_timeout_ms: int = 60_000
    rows_a_statement_max: int = 5_000
    """5,000 stream records are about 3 MB of JSON; the protocol's own limit is 1 GiB."""

    def __post_init__(self) -> None:
        if not _IDENTIFIER.fullmatch(self.schema):
            raise ValueError(f"schema {self.schema!r} is not a plain lower-case SQL name")
        if not self.sink:
            raise ValueError("sink must have a name")
        if not 0 < self.lock_timeout_ms < self.statement_timeout_ms < self.answer_timeout_ms:
            raise ValueError(
                f"lock_timeout_ms={self.lock_timeout_ms} < statement_timeout_ms={self.statement_timeout_ms} "
                f"< answer_timeout_ms={self.answer_timeout_ms} must hold, all above 0"
            )
        for name in ("idle_in_transaction_timeout_ms", "migration_timeout_ms", "rows_a_statement_max"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")
        if self.connect_timeout_s < 2:
            raise ValueError("connect_timeout_s must be at least 2: libpq takes 1 for 2")

    @property
    def where(self) -> str:
        """The address for messages: user, hosts, ports and database, never the password."""
        try:
            given = conninfo_to_dict(self.dsn)
        except ProgrammingError:
            return "(unreadable DSN)"
        hosts = str(given.get("host") or given.get("hostaddr") or "localhost").split(",")
        ports = str(given.get("port") or "5432").split(",")
        ports = ports * len(hosts) if len(ports) == 1 else ports
        places = ",".join(f"{host}:{port or 5432}" for host, port in zip(hosts, ports, strict=False))
        return (
            f"{given.get('user') or '(default user)'}@{places}/{given.get('dbname') or '(default database)'}"
        )

    def conninfo(self) -> str:
        """The DSN with our bounds; what the user wrote there wins over keepalives, name and target.

        Raises SinkUnfit if the DSN cannot be read; the message does not repeat it, since libpq's own would
        quote the piece that it stumbled over, which may be the password.
        """
        try:
            given = conninfo_to_dict(self.dsn)
        except ProgrammingError:
            raise SinkUnfit(
                "(unreadable DSN)",
                "the connection string is neither a libpq URI nor key=value pairs",
                remedy="Set SLUICEGATE_POSTGRES__DSN to postgresql://user:password@host:port/database; "
                "percent-encode special characters of the password",
            ) from None
        ours: dict[str, str | int] = {
            "application_name": self.application_name,
            "keepalives": 1,
            "keepalives_idle": 10,  # a peer that vanished is noticed after 10 + 3 · 3 s, not after two hours
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": self.answer_timeout_ms,
            "target_session_attrs": "read-write",  # after a failover, never a replica
            "client_encoding": "UTF8",
        }
        return make_conninfo("", **{**ours, **given, "connect_timeout": self.connect_timeout_s})

    def session_settings(self) -> dict[str, str]:
        """Settings of the session; the fence is argued for READ COMMITTED, whatever the server's default."""
        return {
            "lock_timeout": f"{self.lock_timeout_ms}ms",
            "statement_timeout": f"{self.statement_timeout_ms}ms",
            "idle_in_transaction_session_timeout": f"{self.idle_in_transaction_timeout_ms}ms",
            "default_transaction_isolation": "read committed",
            "default_transaction_deferrable": "off",
            "timezone": "UTC",
        }
