"""Structured output, held against its schema while it comes.

1. Text is collected, and looked at when it has grown by a quarter (at least 64 characters) and some time has
   passed: all looks together read, and all that is shown holds, a small multiple of the text.
2. What is there is closed so that it can be read, and shown.
3. A part that is whole and breaks the schema, whatever may still come, is said at once.
4. At the end the whole is held against the schema.

Pure: time is what the caller says it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from pydantic_core import from_json, to_json

from connectors.llm.answer_schemas import Unchecked, pointer
from connectors.llm.openings import DEPTH_MAX, Openings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jsonschema.exceptions import ValidationError

    from connectors.llm.answer_schemas import AnswerSchema

STEP_CHARACTERS: Final = 64
GROWTH: Final = 4
"""By which part of itself the text has grown at the next look: all looks read five times the text."""
INTERVAL_S: Final = 0.1
BYTES_MAX: Final = 786_432
"""Of UTF-8: a payload holds at most 900 KiB. What would be more as it is shown is not shown."""
LOOK_WORK_MAX: Final = 20_000
"""Steps of a look before the end, some 40 ms; of what takes more, only the whole is judged."""
PROBLEM_CHARACTERS_MAX: Final = 300
# What is wrong by them stays wrong, whatever is added to a value.
_FOR_GOOD: Final = frozenset({"additionalProperties", "maxItems", "maxProperties", "maxLength", None})


@dataclass(frozen=True, slots=True)
class Structured:
    """A ``structured`` event's payload."""

    json: str
    schema_name: str
    complete: bool
    problem: str = ""
    """JSON pointer of what breaks the schema, and how."""


class StructuredAnswer:
    """The text of one answer, or the arguments of one tool call, that must follow a schema."""

    def __init__(self, schema: AnswerSchema) -> None:
        self._schema = schema
        self._pieces: list[str] = []
        self._openings = Openings()
        self._size = self._size_bytes = 0
        self._looked_at_size = 0
        self._looked_at_s = float("-inf")
        self._judged = True
        self.problem = ""
        """What is wrong for good; such an answer need not be waited for."""
        self._breach: ValidationError | None = None

    @property
    def breach(self) -> str:
        """What is wrong without what the answer says: its place, and the schema's word that it breaks."""
        return self.problem if self._breach is None else _broken(self._breach)

    @property
    def is_empty(self) -> bool:
        """Whether nothing came but white space."""
        return not self._text().strip()

    def take(self, text: str, now_s: float) -> Sequence[Structured]:
        """Take more of the text at a monotonic time; give what is to be shown of it, mostly nothing."""
        if self.problem or not text:
            return ()
        self._pieces.append(text)
        self._size += len(text)
        self._size_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        self._openings.take(text)
        if self._size_bytes > BYTES_MAX:
            self.problem = f"has more than {BYTES_MAX} bytes"
        elif self._openings.too_deep:
            self.problem = f"is deeper than {DEPTH_MAX} levels"
        if self.problem:
            return (Structured("null", self._schema.name, complete=False, problem=self.problem),)
        grown = self._size - self._looked_at_size
        if (
            grown < max(STEP_CHARACTERS, self._looked_at_size // GROWTH)
            or now_s < self._looked_at_s + INTERVAL_S
        ):
            return ()
        self._looked_at_size, self._looked_at_s = self._size, now_s
        return self._look()

    def finish(self) -> Structured:
        """Give the whole and the verdict."""
        text = self._text().strip()
        if self.problem:
            return Structured(_readable(text), self._schema.name, complete=False, problem=self.problem)
        try:
            value = from_json(text, allow_inf_nan=False, cache_strings="none")
        except ValueError as error:
            self.problem = f"is no JSON: {error}"[:PROBLEM_CHARACTERS_MAX] if text else "is empty"
            return Structured(_readable(text), self._schema.name, complete=False, problem=self.problem)
        try:
            problems = self._schema.problems(value)
        except Unchecked as unchecked:
            self.problem = str(unchecked)
        else:
            self._breaks(next(iter(problems), None))
        return Structured(text, self._schema.name, complete=True, problem=self.problem)

    def _look(self) -> Sequence[Structured]:
        """Show what is there, and say what is wrong with it for good."""
        text = self._text()
        try:
            value = from_json(
                text, allow_inf_nan=False, allow_partial="trailing-strings", cache_strings="none"
            )
        except ValueError as error:
            if "EOF while parsing" in str(error):  # a word that stands alone, as far as it has come
                return ()
            self.problem = f"is no JSON: {error}"[:PROBLEM_CHARACTERS_MAX]
            return (Structured("null", self._schema.name, complete=False, problem=self.problem),)
        problems: Sequence[ValidationError] = ()
        if self._judged:
            try:
                problems = self._schema.problems(value, LOOK_WORK_MAX)
            except Unchecked:
                self._judged = False
        self._breaks(next((each for each in problems if _for_good(each, self._openings.path)), None))
        shown = _shown(value)
        if shown is None and not self.problem:
            return ()
        return (Structured(shown or "null", self._schema.name, complete=False, problem=self.problem),)

    def _breaks(self, wrong: ValidationError | None) -> None:
        self._breach = wrong
        self.problem = "" if wrong is None else _said(wrong)

    def _text(self) -> str:
        text = "".join(self._pieces)
        self._pieces = [text]
        return text


def _for_good(error: ValidationError, open_path: tuple[str | int, ...]) -> bool:
    """Whether a value breaks the schema whatever may still come."""
    if not {"then", "else"}.isdisjoint(error.absolute_schema_path):
        return False  # what stands in an `if` may yet come out differently
    path = tuple(error.absolute_path)
    return path != open_path[: len(path)] or _stays(error, open_path)


def _stays(error: ValidationError, open_path: tuple[str | int, ...]) -> bool:
    """Whether what is wrong with a value that is still open stays wrong."""
    value, expected = error.instance, error.validator_value
    match error.validator:
        case "type":  # digits may still be added, or an exponent; nothing makes anything else of a number
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return not (number and _numeric(expected))
        case "enum" | "const" if isinstance(value, str):
            options: Any = expected if error.validator == "enum" else [expected]
            return not any(isinstance(option, str) and option.startswith(value) for option in options)
        case "anyOf" | "oneOf":
            # An option that is ``false`` has one error, and no place of its own.
            wrong = {
                each.schema_path[0] if each.schema_path else id(each)
                for each in error.context or ()
                if _for_good(each, open_path)
            }
            return len(wrong) == len(cast("list[object]", expected))
        case keyword:
            return keyword in _FOR_GOOD


def _numeric(types: object) -> bool:
    return not {"number", "integer"}.isdisjoint(
        [types] if isinstance(types, str) else cast("list[str]", types)
    )


def _said(error: ValidationError) -> str:
    where = pointer(error.absolute_path) or "/"
    return f"{where}: {error.message}"[:PROBLEM_CHARACTERS_MAX]


def _broken(error: ValidationError) -> str:
    """Give place and keyword; a name in the place that the schema does not have is the answer's own."""
    names = set(error.absolute_schema_path)
    path = [part if isinstance(part, int) or part in names else "*" for part in error.absolute_path]
    return f"{pointer(path) or '/'}: {error.validator or 'false'}"[:PROBLEM_CHARACTERS_MAX]


def _shown(value: object) -> str | None:
    """Write what is there; None if that is too much, as ``1e9`` is ``1000000000.0`` when it is written."""
    written = to_json(value)
    return written.decode() if len(written) <= BYTES_MAX else None


def _readable(text: str) -> str:
    """Close what is there so that it can be read; null if nothing can."""
    try:
        return _shown(from_json(text, allow_partial="trailing-strings", cache_strings="none")) or "null"
    except ValueError:
        return "null"
