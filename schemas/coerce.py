"""JSON values as Avro values, strictly: what does not fit is named by its path, nothing is guessed."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING, Any, Final

from schemas.errors import InvalidEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_RANGES: Final = {"int": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}


def coercer(schema: Any, named: dict[str, Callable[[object, str], Any]]) -> Callable[[object, str], Any]:  # noqa: PLR0911
    """Return a function (value, path) → Avro value for a schema without logical types.

    ``named`` collects the named types met so far, by full name. The function raises InvalidEvent with the
    path of what does not fit. Bytes are given as such or as base64 text.
    """
    if isinstance(schema, str):
        simple = _SIMPLE.get(schema)
        return simple if simple is not None else named[schema]
    if isinstance(schema, list):
        return _union(schema, named)
    kind = schema["type"]
    if kind == "record":
        return _record(schema, named)
    if kind == "array":
        return _array(coercer(schema["items"], named))
    if kind == "map":
        return _map(coercer(schema["values"], named))
    if kind == "enum":
        return named.setdefault(schema["name"], _enum(tuple(schema["symbols"])))
    if kind == "fixed":
        return named.setdefault(schema["name"], _fixed(int(schema["size"])))
    return coercer(kind, named)


def _wrong(path: str, expected: str, value: object) -> InvalidEvent:
    shown = repr(value)
    return InvalidEvent(path, f"must be {expected}, is {shown if len(shown) <= 80 else shown[:80] + '…'}")


def _null(value: object, path: str) -> None:
    if value is not None:
        raise _wrong(path, "null", value)


def _boolean(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(path, "true or false", value)
    return value


def _whole(kind: str) -> Callable[[object, str], int]:
    low, high = _RANGES[kind]

    def coerce(value: object, path: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong(path, "a whole number", value)
        if not low <= value <= high:
            raise _wrong(path, f"from {low} to {high}", value)
        return value

    return coerce


def _number(value: object, path: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong(path, "a number", value)
    try:
        return float(value)
    except OverflowError:
        raise _wrong(path, "a number that a double can hold", value) from None


def _string(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, "a string", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _wrong(path, "text without lone surrogates", value) from None
    return value


def _bytes(value: object, path: str) -> bytes:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str):
        raise _wrong(path, "base64 text", value)
    try:
        return b64decode(value, validate=True)
    except (Base64Error, ValueError):
        raise _wrong(path, "base64 text", value) from None


def _fixed(size: int) -> Callable[[object, str], bytes]:
    def coerce(value: object, path: str) -> bytes:
        data = _bytes(value, path)
        if len(data) != size:
            raise InvalidEvent(path, f"must be {size} bytes, is {len(data)}")
        return data

    return coerce


def _enum(symbols: tuple[str, ...]) -> Callable[[object, str], str]:
    def coerce(value: object, path: str) -> str:
        if not isinstance(value, str) or value not in symbols:
            raise _wrong(path, "one of " + ", ".join(symbols), value)
        return value

    return coerce


def _array(item: Callable[[object, str], Any]) -> Callable[[object, str], list[Any]]:
    def coerce(value: object, path: str) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise _wrong(path, "an array", value)
        return [item(part, f"{path}[{place}]") for place, part in enumerate(value)]

    return coerce


def _map(item: Callable[[object, str], Any]) -> Callable[[object, str], dict[str, Any]]:
    def coerce(value: object, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(path, "an object", value)
        return {_string(name, path): item(part, f"{path}.{name}") for name, part in value.items()}

    return coerce


def _union(
    branches: list[Any], named: dict[str, Callable[[object, str], Any]]
) -> Callable[[object, str], Any]:
    coercers = [coercer(branch, named) for branch in branches]
    several = "one of the union's branches"

    def coerce(value: object, path: str) -> Any:
        problem: InvalidEvent | None = None
        for branch in coercers:
            try:
                return branch(value, path)
            except InvalidEvent as error:
                problem = error
        if problem is None or len(coercers) > 2:
            raise _wrong(path, several, value)
        raise problem  # of [null, x], x says it better

    return coerce


def _record(
    schema: dict[str, Any], named: dict[str, Callable[[object, str], Any]]
) -> Callable[[object, str], dict[str, Any]]:
    fields: dict[str, Callable[[object, str], Any]] = {}
    essential: list[str] = []
    for field in schema["fields"]:
        fields[field["name"]] = coercer(field["type"], named)
        if "default" not in field:
            essential.append(field["name"])

    def coerce(value: object, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(path, "an object", value)
        for name in essential:
            if name not in value:
                raise InvalidEvent(f"{path}.{name}", "is missing")
        made: dict[str, Any] = {}
        for name, part in value.items():
            field = fields.get(name)
            if field is None:
                known = ", ".join(fields)
                raise InvalidEvent(f"{path}.{name}", f"is not a field of the type; it has {known}")
            made[name] = field(part, f"{path}.{name}")
        return made

    return named.setdefault(schema["name"], coerce)


_SIMPLE: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "null": _null,
    "boolean": _boolean,
    "int": _whole("int"),
    "long": _whole("long"),
    "float": _number,
    "double": _number,
    "string": _string,
    "bytes": _bytes,
}
