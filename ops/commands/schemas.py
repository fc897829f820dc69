"""`sluicegate schemas`: check, register and list the Avro schemas of events."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - the parser reads it at run time
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from connectors.registry import Registry

AsJson = Annotated[bool, Parameter(name="--json", negative=())]


def register(app: App) -> None:
    """Add the commands to the app."""
    schemas = App(name="schemas", help="Check, register and list the schemas of events.")
    schemas.command(check_command, name="check")
    schemas.command(register_command, name="register")
    schemas.command(list_command, name="list")
    app.command(schemas)


def check_command(*files: Path, as_json: AsJson = False) -> int:
    """Say whether schemas could be registered, and if not why; nothing is changed.

    Exit code 1 if any could not: it is not FULL_TRANSITIVE compatible, or beyond what readers accept.

    Example: `sluicegate schemas check payload/reading.avsc`

    Parameters
    ----------
    files
        Avro schema files of your own types; without any, those of this installation.
    as_json
        Print the answer as JSON.
    """
    from ops import console

    wanted = _texts(files)
    with _registry() as registry:
        found = [_checked(registry, subject, text) for subject, text in wanted.items()]
    if as_json:
        console.print_json(list(found))
    else:
        for row in found:
            console.out().print(f"{row['state']!s:<13}{row['subject']}")
            for problem in row["problems"]:  # type: ignore[attr-defined]
                console.out().print(f"{'':<13}{problem}")
    return 1 if any(row["problems"] for row in found) else 0


def register_command(*files: Path, as_json: AsJson = False) -> int:
    """Register schemas with FULL_TRANSITIVE compatibility; what is registered already stays as it is.

    All are checked before the first is registered. Exit code 1 if one is refused.

    Example: `sluicegate schemas register payload/reading.avsc`

    Parameters
    ----------
    files
        Avro schema files of your own types; without any, those of this installation.
    as_json
        Print the ids as JSON.
    """
    from ops import console
    from schemas.errors import IncompatibleSchema

    wanted = _texts(files)
    with _registry() as registry:
        for subject, text in wanted.items():
            problems = registry.check(subject, text)
            if problems:
                raise IncompatibleSchema(subject, problems, registry.versions(subject))
        ids = {subject: registry.register(subject, text) for subject, text in wanted.items()}
    if as_json:
        console.print_json(dict(ids))
    else:
        for subject, schema_id in ids.items():
            console.out().print(f"{schema_id:>6}  {subject}")
    return 0


def list_command(*, as_json: AsJson = False) -> int:
    """List the subjects of the registry with their versions and latest id.

    Example: `sluicegate schemas list`

    Parameters
    ----------
    as_json
        Print the list as JSON.
    """
    from ops import console
    from schemas.catalog import subjects

    ours = subjects()
    rows = []
    with _registry() as registry:
        for subject in registry.subjects():
            versions = registry.versions(subject)
            schema_id, _ = registry.version(subject, versions[-1])
            rows.append(
                {
                    "subject": subject,
                    "versions": versions,
                    "latest_id": schema_id,
                    "compatibility": registry.compatibility(subject),
                    "ours": subject in ours,
                }
            )
    if as_json:
        console.print_json(list(rows))
        return 0
    for row in rows:
        numbers = ",".join(str(version) for version in row["versions"])  # type: ignore[attr-defined]
        console.out().print(
            f"{row['latest_id']:>6}  {row['subject']!s:<36} v{numbers:<10} {row['compatibility']}"
            + ("" if row["ours"] else "  (not of this installation)")
        )
    return 0


def _registry() -> AbstractContextManager[Registry]:
    from contextlib import contextmanager

    from connectors.registry import Registry
    from ops.addresses import addresses
    from ops.settings import Settings

    @contextmanager
    def opened() -> Iterator[Registry]:
        registry = Registry(addresses(Settings()).registry_url)
        try:
            yield registry
        finally:
            registry.close()

    return opened()


def _texts(files: tuple[Path, ...]) -> dict[str, str]:
    """Schema text by subject: of the files, or all of ours."""
    from schemas.catalog import subjects

    return dict(_read(file) for file in files) if files else dict(subjects())


def _read(file: Path) -> tuple[str, str]:
    import orjson

    from ops.errors import BadFile
    from schemas.codec import record_name
    from schemas.errors import Undecodable
    from schemas.limits import checked_schema

    remedy = "give a file with one Avro record, named sluicegate.payload.<type>"
    try:
        text = file.read_text()
        checked_schema(text, -1)
        schema = orjson.loads(text)
    except FileNotFoundError:
        raise BadFile(str(file), "does not exist", remedy) from None
    except (UnicodeDecodeError, Undecodable) as error:
        raise BadFile(str(file), str(error), remedy) from None
    return record_name(schema), orjson.dumps(schema).decode()


def _checked(registry: Registry, subject: str, text: str) -> dict[str, object]:
    from schemas.errors import Undecodable
    from schemas.limits import checked_schema

    try:
        checked_schema(text, -1)
        problems = registry.check(subject, text)
    except Undecodable as error:
        problems = [str(error)]
    versions = registry.versions(subject)
    if problems:
        state = "incompatible"
    elif not versions:
        state = "new"
    else:
        state = "registered" if registry.is_registered(subject, text) else "compatible"
    return {"subject": subject, "state": state, "versions": versions, "problems": problems}
