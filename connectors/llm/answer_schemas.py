"""Schemas that answers must follow: they come with a request, so they are checked, and their work is bounded.

JSON Schema of 2020-12 without references to elsewhere, and with regular expressions of linear time.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from pydantic_core import from_json, to_json

from connectors.llm.errors import CallRefused
from connectors.llm.patterns import BadPattern, Pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    Keyword = Callable[[Any, Any, Any, Any], Iterable[ValidationError] | None]
    Place = tuple[str, ...]

SCHEMA_BYTES_MAX: Final = 32_768
SCHEMA_DEPTH_MAX: Final = 32
PARTS_MAX: Final = 1_000
"""Schemas within the schema; to check one takes 0.3 ms, measured."""
WORK_MAX: Final = 100_000
"""Keywords looked at in one validation, some 2 µs each. A schema that refers to itself twice at each level
takes 2^depth of them."""
PATTERNS_MAX: Final = 64
PATTERN_BYTES_MAX: Final = 2_097_152
"""Of all regular expressions of a schema, compiled: a caller wrote them, and the memory is the worker's."""
KEPT_MAX: Final = 32
"""Schemas that are kept checked: with their expressions, some 70 MB at the most."""
PROBLEMS_MAX: Final = 32
_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLES: Final = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
# They change what a reference means, or need the paths of an evaluation, which nothing here bounds.
_REFUSED: Final = (
    *("$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$vocabulary"),
    *("unevaluatedProperties", "unevaluatedItems"),
)


class Unchecked(Exception):
    """A value could not be held against a schema within the bound; the message says why."""


class AnswerSchema:
    """One schema that was checked; share it between calls."""

    def __init__(self, schema: Mapping[str, Any], name: str = "") -> None:
        """Check it, which may take 0.3 s: not on a loop. Raises CallRefused, naming the place in it."""
        self.name = name
        self._schema = schema
        self._patterns: dict[str, Pattern] = {}
        places: set[Place] = set()
        references: list[tuple[Place, str]] = []
        self._walk(schema, (), places, references)
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise _refused(tuple(map(str, error.absolute_path)), error.message[:200]) from None
        for at, reference in references:
            if _place_of(reference) not in places:
                raise _refused(at, f"$ref {reference[:80]!r} is no schema of this document (#/$defs/NAME)")

    def problems(self, value: object, work_max: int = WORK_MAX) -> list[ValidationError]:
        """Give what is wrong with a value, the first of it. Raises Unchecked."""
        found: list[ValidationError] = []
        try:
            checker = _Work(work_max, self._patterns)
            for error in _Bounded(self._schema, format_checker=checker).iter_errors(value):
                found.append(error)
                if len(found) == PROBLEMS_MAX:
                    break
        except RecursionError:
            raise Unchecked("the schema refers to itself without an end") from None
        except ArithmeticError as error:
            raise Unchecked(f"a number is too large to be checked ({type(error).__name__})") from None
        return found

    def _walk(
        self, schema: object, at: Place, places: set[Place], references: list[tuple[Place, str]]
    ) -> None:
        """Visit every place where a schema stands. Raises CallRefused."""
        if len(at) > SCHEMA_DEPTH_MAX:
            raise _refused(at[:4], f"is deeper than {SCHEMA_DEPTH_MAX} levels")
        places.add(at)
        if len(places) > PARTS_MAX:
            raise _refused((), f"has more than {PARTS_MAX} parts")
        if not isinstance(schema, dict):
            return  # true, false, or what the check of the schema refuses
        for name in _REFUSED:
            if name in schema:
                raise _refused((*at, name), "is not supported here")
        if isinstance(reference := schema.get("$ref"), str):
            references.append((at, reference))
        self._compile(schema, at)
        for path, each in _subschemas(schema):
            self._walk(each, (*at, *path), places, references)

    def _compile(self, schema: Mapping[str, Any], at: Place) -> None:
        """Compile the regular expressions of one place. Raises CallRefused."""
        properties = schema.get("patternProperties")
        for expression in (schema.get("pattern"), *(properties if isinstance(properties, dict) else ())):
            if not isinstance(expression, str) or expression in self._patterns:
                continue
            if len(self._patterns) == PATTERNS_MAX:
                raise _refused(at, f"is one of more than {PATTERNS_MAX} regular expressions")
            try:
                made = self._patterns[expression] = Pattern(expression)
            except BadPattern as error:
                raise _refused(at, f"regular expression {expression[:80]!r} {error}") from None
            if sum(each.size_bytes for each in self._patterns.values()) > PATTERN_BYTES_MAX:
                raise _refused(
                    at,
                    f"the regular expressions take more than {PATTERN_BYTES_MAX // 1_024} KiB compiled, with "
                    f"{expression[:80]!r}, which takes {made.size_bytes // 1_024} KiB",
                )


def answer_schema(schema: Mapping[str, Any], name: str) -> AnswerSchema:
    """Give a schema, checked; the latest are kept. Not on a loop, see AnswerSchema. Raises CallRefused."""
    try:
        text = to_json(schema)
    except ValueError as error:
        raise _refused((), f"is no JSON ({type(error).__name__})") from None
    if len(text) > SCHEMA_BYTES_MAX:
        raise _refused((), f"has {len(text)} bytes, at most {SCHEMA_BYTES_MAX}")
    return _checked(text, name)


@lru_cache(maxsize=KEPT_MAX)
def _checked(text: bytes, name: str) -> AnswerSchema:
    return AnswerSchema(from_json(text), name)


def pointer(path: Iterable[object]) -> str:
    """Write a path as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _refused(at: Place, problem: str) -> CallRefused:
    return CallRefused(f"schema{pointer(at)}"[:200], problem, "Correct the schema of the request.")


def _place_of(reference: str) -> Place | None:
    if reference == "#":
        return ()
    if not reference.startswith("#/"):
        return None
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in unquote(reference[2:]).split("/"))


def _subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[Place, object]]:
    for name in _MAPS:
        if isinstance(schema.get(name), dict):
            yield from (((name, key), each) for key, each in schema[name].items())
    for name in _LISTS:
        if isinstance(schema.get(name), list):
            yield from (((name, str(number)), each) for number, each in enumerate(schema[name]))
    yield from (((name,), schema[name]) for name in _SINGLES if name in schema)


class _Work(FormatChecker):
    """Counts the work of one validation: what is handed on as format checker reaches every part of it."""

    def __init__(self, work_max: int, patterns: Mapping[str, Pattern]) -> None:
        super().__init__(())
        self._patterns = patterns
        self._max = self._left = work_max

    def spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise Unchecked(f"to check it takes more than {self._max} steps")

    def matches(self, expression: str, text: str) -> bool:
        """Whether an expression of the schema matches anywhere in a text."""
        pattern = self._patterns[expression]
        self.spend(pattern.work(len(text)))
        return pattern.matches(text)


def _counted(keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterable[ValidationError] | None:
        validator.format_checker.spend(1 + (len(value) if isinstance(value, list | dict) else 0))
        return keyword(validator, value, instance, schema)

    return check


def _pattern(validator: Any, value: str, instance: object, _schema: object) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not validator.format_checker.matches(value, instance):
        yield ValidationError(f"does not match {value!r}")


def _pattern_properties(
    validator: Any, value: Mapping[str, Any], instance: Any, _schema: object
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    validator.format_checker.spend(len(value) * len(instance))
    for expression, subschema in value.items():
        for key, each in instance.items():
            if validator.format_checker.matches(expression, key):
                yield from validator.descend(each, subschema, path=key, schema_path=expression)


def _additional_properties(
    validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    known, expressions = schema.get("properties", {}), schema.get("patternProperties", {})
    validator.format_checker.spend(len(instance) * (1 + len(expressions)))
    for key, each in instance.items():
        if key in known or any(validator.format_checker.matches(each, key) for each in expressions):
            continue
        if value is False:
            yield ValidationError(f"may not have {key[:80]!r}")
        else:
            yield from validator.descend(each, value, path=key)


def _unique_items(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if value and validator.is_type(instance, "array"):
        validator.format_checker.spend(len(instance) ** 2 // 8)  # each is held against each that has no order
        yield from Draft202012Validator.VALIDATORS["uniqueItems"](validator, value, instance, schema) or ()


_OURS: Final[Mapping[str, Keyword]] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
    "format": lambda *_: None,  # says what is meant, and is no rule
}
_Bounded: Final = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {name: _counted(_OURS.get(name, keyword)) for name, keyword in Draft202012Validator.VALIDATORS.items()},
)
