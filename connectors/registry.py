"""A schema registry behind the Confluent API: ids, texts, and the refusal of what would break a reader."""

from __future__ import annotations

import threading
import time
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx2
import orjson

from schemas.catalog import subjects
from schemas.changes import problems_between
from schemas.errors import IncompatibleSchema, RegistryUnavailable, SchemaError, UnknownSchemaId, UnknownType

COMPATIBILITY: Final = "FULL_TRANSITIVE"
CACHE_MAX: Final = 1_024  # texts of a few KiB: some MiB at worst
LATEST_TTL_S: Final = 30.0  # a newer version of a user's type is written with after this long
NEGATIVE_TTL_S: Final = 5.0  # what was not there is asked for again after this long, and not at each record
AWAY_S: Final = 2.0  # after no answer for this long nobody asks: all that wait would hang, one by one
_ATTEMPTS: Final = 3
_BACKOFF_S: Final = 0.1
_NOT_FOUND: Final = (40401, 40402, 40403)  # subject, version, schema: the registry itself says so


class Registry:
    """A SchemaSource over HTTP; safe to share between threads.

    An id never changes its text, so texts are kept for good (bounded); what was not found is forgotten
    after seconds. A call may block for up to about three time-outs when the registry does not answer; after
    that one caller at a time finds out whether it is back, and all others are told at once that it is away.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        """Take the base of the Confluent API, ``…/apis/ccompat/v7`` for Apicurio; nothing is asked yet."""
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]  # a password in the address must not reach a log
        self.url = parts._replace(netloc=host).geturl().rstrip("/")
        self._http = httpx2.Client(
            base_url=url.rstrip("/"),
            timeout=timeout_s,
            verify=parts.scheme != "http",  # the machine's authorities take each process 30 ms to read
            headers={"Accept": "application/vnd.schemaregistry.v1+json, application/json"},
        )
        self._texts: dict[int, str] = {}
        self._ids: dict[str, tuple[int, float]] = {}
        self._absent: dict[int | str, float] = {}
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._away = ""
        """Why it did not answer the last that asked; empty while it does."""
        self._ask_from = 0.0
        """When somebody may ask again while it is away."""

    def close(self) -> None:
        """Close the connections; the caches are lost."""
        self._http.close()

    def id_of(self, subject: str) -> int:
        """Return the id to write a subject with: of our own text if it is ours, else of the latest version.

        Raises:
            UnknownType: the subject, or our version of it, is not registered.
            RegistryUnavailable: no answer.
        """
        known = self._ids.get(subject)
        if known is not None and time.monotonic() < known[1]:
            return known[0]
        if self._is_absent(subject):
            raise UnknownType(subject)
        ours = subjects().get(subject)
        try:
            if ours is not None:
                schema_id = int(self._ask("POST", f"/subjects/{_path(subject)}", {"schema": ours})["id"])
                until = float("inf")
            else:
                found = self._ask("GET", f"/subjects/{_path(subject)}/versions/latest")
                schema_id, until = int(found["id"]), time.monotonic() + LATEST_TTL_S
        except _NotFound:
            self._note_absent(subject)
            raise UnknownType(subject) from None
        if len(self._ids) >= CACHE_MAX:
            self._ids.clear()
        self._ids[subject] = (schema_id, until)
        return schema_id

    def schema_of(self, schema_id: int) -> str:
        """Return the JSON text of a schema.

        Raises:
            UnknownSchemaId: the registry has no such id.
            RegistryUnavailable: no answer.
        """
        text = self._texts.get(schema_id)
        if text is not None:
            return text
        if self._is_absent(schema_id):
            raise UnknownSchemaId(schema_id, self.url)
        try:
            text = str(self._ask("GET", f"/schemas/ids/{schema_id}")["schema"])
        except _NotFound:
            self._note_absent(schema_id)
            raise UnknownSchemaId(schema_id, self.url) from None
        if len(self._texts) >= CACHE_MAX:
            self._texts.clear()
        self._texts[schema_id] = text
        return text

    def register(self, subject: str, schema: str) -> int:
        """Register a version, FULL_TRANSITIVE, and return its id; the same text again gives the same id.

        What is there already is only looked up: every start asks for each of our schemas, and to write a
        subject's level takes a registry longer than all the rest.

        Raises:
            IncompatibleSchema: names the subject, its versions and the reasons.
            RegistryUnavailable: no answer.
        """
        try:
            schema_id = int(self._ask("POST", f"/subjects/{_path(subject)}", {"schema": schema})["id"])
        except _NotFound:
            schema_id = self._add(subject, schema)
        self._absent.pop(subject, None)
        self._ids.pop(subject, None)
        if subjects().get(subject) == schema:
            self._ids[subject] = (schema_id, float("inf"))
        return schema_id

    def _add(self, subject: str, schema: str) -> int:
        self.set_compatibility(COMPATIBILITY, subject)
        try:
            return int(self._ask("POST", f"/subjects/{_path(subject)}/versions", {"schema": schema})["id"])
        except _Refused as refused:
            problems = self._problems(subject, schema) or [refused.text]
            raise IncompatibleSchema(subject, problems, self.versions(subject)) from None

    def register_all(self) -> dict[str, int]:
        """Register every schema of ours and return its id by subject; raises as ``register``.

        Safe to run from several processes at once, and again.
        """
        return {subject: self.register(subject, text) for subject, text in subjects().items()}

    def check(self, subject: str, schema: str) -> list[str]:
        """Return why a schema could not follow the registered versions; empty = it could.

        Raises:
            RegistryUnavailable: no answer.
        """
        problems = self._problems(subject, schema)
        if problems:
            return problems
        try:
            path = f"/compatibility/subjects/{_path(subject)}/versions?verbose=true"
            answer = self._ask("POST", path, {"schema": schema})
        except _NotFound:
            return []  # the first version is compatible with all there are
        except _Refused as refused:
            return [refused.text]
        if answer.get("is_compatible", False):
            return []
        return [str(message) for message in answer.get("messages", ())] or ["the registry gives no reason"]

    def is_registered(self, subject: str, schema: str) -> bool:
        """Whether this very text is a version of the subject; raises RegistryUnavailable."""
        try:
            self._ask("POST", f"/subjects/{_path(subject)}", {"schema": schema})
        except _NotFound:
            return False
        return True

    def set_compatibility(self, level: str = COMPATIBILITY, subject: str | None = None) -> None:
        """Set what the registry demands of a subject's next version, or of all subjects that say nothing."""
        path = "/config" if subject is None else f"/config/{_path(subject)}"
        try:
            self._ask("PUT", path, {"compatibility": level})
        except _Refused:  # another process set it for the first time just then: now there is one to set
            self._ask("PUT", path, {"compatibility": level})

    def compatibility(self, subject: str) -> str:
        """Return what the registry demands of a subject's next version."""
        try:
            return str(
                self._ask("GET", f"/config/{_path(subject)}?defaultToGlobal=true")["compatibilityLevel"]
            )
        except _NotFound:
            return str(self._ask("GET", "/config")["compatibilityLevel"])

    def subjects(self) -> list[str]:
        """Return the registered subjects, sorted."""
        return sorted(str(subject) for subject in self._ask("GET", "/subjects"))

    def versions(self, subject: str) -> list[int]:
        """Return the registered versions of a subject; none if it is not registered."""
        try:
            return [int(version) for version in self._ask("GET", f"/subjects/{_path(subject)}/versions")]
        except _NotFound:
            return []

    def version(self, subject: str, version: int) -> tuple[int, str]:
        """Return (id, JSON text) of one version; raises UnknownType if there is none."""
        try:
            found = self._ask("GET", f"/subjects/{_path(subject)}/versions/{version}")
        except _NotFound:
            raise UnknownType(f"{subject} version {version}") from None
        return int(found["id"]), str(found["schema"])

    def _problems(self, subject: str, schema: str) -> list[str]:
        # Apicurio says that, not why; and it tells it only of subjects whose level has been set.
        found = []
        for version in self.versions(subject):
            _, text = self.version(subject, version)
            found += [f"version {version}: {problem}" for problem in problems_between(text, schema)]
        return found

    def _is_absent(self, what: int | str) -> bool:
        until = self._absent.get(what)
        return until is not None and time.monotonic() < until

    def _note_absent(self, what: int | str) -> None:
        if len(self._absent) >= CACHE_MAX:
            self._absent.clear()
        self._absent[what] = time.monotonic() + NEGATIVE_TTL_S

    def _ask(self, method: str, path: str, body: dict[str, str] | None = None) -> Any:
        problem = ""
        for attempt in range(self._attempts()):
            if attempt:
                time.sleep(_BACKOFF_S * 4 ** (attempt - 1))
            try:
                response = self._http.request(method, path, json=body)
            except httpx2.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.status_code < 500 and response.status_code != 429:
                self._away = ""
                return self._answer(method, path, response)
            problem = f"HTTP {response.status_code}: {response.text[:200]}"
        with self._lock:
            self._away, self._ask_from = problem, time.monotonic() + AWAY_S
        raise RegistryUnavailable(self.url, problem)

    def _attempts(self) -> int:
        """How often this call may try: once, and nobody else meanwhile, if the registry was away of late."""
        with self._lock:
            if not self._away:
                return _ATTEMPTS
            now = time.monotonic()
            if now < self._ask_from:
                raise RegistryUnavailable(self.url, self._away)
            self._ask_from = now + self._timeout_s + AWAY_S
            return 1

    def _answer(self, method: str, path: str, response: httpx2.Response) -> Any:
        try:
            answer = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            answer = None
        if response.is_success and answer is not None:
            return answer
        code = answer.get("error_code") if isinstance(answer, dict) else None
        said = str(answer.get("message", "")) if isinstance(answer, dict) else response.text[:200]
        if response.status_code == 404 and code in _NOT_FOUND:
            raise _NotFound(said)
        if response.status_code in (409, 422):
            raise _Refused(said)
        # A 404 that the registry did not write means a wrong address: never let it condemn a record.
        raise RegistryUnavailable(
            self.url, f"{method} {path} answered HTTP {response.status_code} {said or 'without a body'}"
        )


class _NotFound(SchemaError):
    """The registry says that it does not have it."""


class _Refused(SchemaError):
    """The registry refuses what was sent."""

    @property
    def text(self) -> str:
        return str(self)


def _path(subject: str) -> str:
    return quote(subject, safe="")
