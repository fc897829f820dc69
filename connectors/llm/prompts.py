"""Prompts that are kept: versions that never change, labels that stand for them, and how one is rendered.

A template has messages with ``{name}`` in their text, and says which names there are. Nothing but a plain
name stands for a variable: no attribute, index or format, so that a template cannot reach into the program,
and text of a user cannot become one (values are put in once, and not read again). ``{{`` and ``}}``
are braces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from connectors.llm.errors import PromptRefused
from connectors.llm.route import NAME, Config, said

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from connectors.llm.routing import Draw

PRODUCTION: Final = "production"
TEMPLATE_BYTES_MAX: Final = 524_288  # a request's record of 1 MiB holds it, its variables and a conversation
SHARES: Final = 100
LABELS_MAX: Final = 32
BEFORE_MAX: Final = 10
"""What a label stood for is kept so far back, to be gone back to."""
_MARK: Final = re.compile(r"\{\{|\}\}|\{([a-z][a-z0-9_]{0,63})\}")

Shares = dict[int, int]
"""Version to its share in percent."""


class Variable(Config):
    """One variable of a template."""

    characters_max: int = Field(10_000, ge=1, le=500_000, description="longest value, in characters")
    default: str | None = Field(
        default=None, description="value where none is given; none = it must be given"
    )
    doc: str = Field("", max_length=1_000, description="what it is")


class TemplateMessage(Config):
    """One message."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1, description="text with {variables}")


class Template(Config):
    """A version's content."""

    messages: tuple[TemplateMessage, ...] = Field(min_length=1, max_length=100)
    variables: dict[str, Variable] = Field(default_factory=dict, max_length=100)

    @model_validator(mode="after")
    def _fit_together(self) -> Template:
        used = {
            found[1] for one in self.messages for found in _MARK.finditer(one.content) if found[1] is not None
        }
        if undeclared := sorted(used - self.variables.keys()):
            raise ValueError(f"{{{undeclared[0]}}} stands in a message, but not under variables")
        if unused := sorted(self.variables.keys() - used):
            raise ValueError(f"variable {unused[0]} stands in no message")
        return self


@dataclass(frozen=True, slots=True)
class Prompt:
    """One version of a prompt."""

    name: str
    version: int
    template: Template

    def render(self, given: Mapping[str, str]) -> list[Mapping[str, Any]]:
        """Give its messages with the variables put in.

        Raises:
            PromptRefused: a variable is missing, too long, or not one of the prompt's.
        """
        where = f"prompt {self.name}/{self.version}"
        declared = self.template.variables
        if unknown := sorted(given.keys() - declared.keys()):
            names = ", ".join(sorted(declared)) or "none"
            raise PromptRefused(
                f"{where} has no variable {unknown[0][:80]!r}", remedy=f"Give those that it has: {names}."
            )
        values: dict[str, str] = {}
        for name, variable in declared.items():
            value = given.get(name, variable.default)
            if value is None:
                raise PromptRefused(f"{where} needs variable {name!r}", remedy="Give it a value.")
            if len(value) > variable.characters_max:
                raise PromptRefused(
                    f"{where}: variable {name!r} has {len(value)} characters, "
                    f"at most {variable.characters_max}",
                    remedy="Shorten it, or write a version of the prompt that lets it be longer.",
                )
            values[name] = value
        return [
            {"role": message.role, "content": _put_in(message.content, values)}
            for message in self.template.messages
        ]


def _put_in(text: str, values: Mapping[str, str]) -> str:
    return _MARK.sub(lambda found: values[found[1]] if found[1] is not None else found[0][0], text)


# -- as they are written down -----------------------------------------------------------------------------


def template_of(text: str, name: str) -> Template:
    """Read a template. Raises PromptRefused, which names each field that is wrong."""
    check_prompt_name(name)
    if len(text.encode()) > TEMPLATE_BYTES_MAX:
        raise PromptRefused(f"prompt {name}: more than {TEMPLATE_BYTES_MAX} bytes", remedy="Make it shorter.")
    try:
        return Template.model_validate_json(text)
    except ValidationError as error:
        raise PromptRefused(f"prompt {name}: {said(error)}", remedy="Correct what is named.") from None


def check_prompt_name(name: str) -> None:
    """Raise PromptRefused for what cannot be a prompt's name."""
    if not NAME.fullmatch(name):
        raise PromptRefused(
            f"prompt {name[:80]!r}: a name has 1 to 64 of A-Z a-z 0-9 . _ -", remedy="Choose another name."
        )


Labels = dict[str, list[Shares]]
"""What each label stands for, and before it what it stood for, latest first."""
_LABELS: Final = TypeAdapter(Labels)


def labels_of(text: str, name: str) -> Labels:
    """Read the labels of a prompt; empty text = none. Raises PromptRefused."""
    if not text:
        return {}
    try:
        labels = _LABELS.validate_json(text)
    except ValidationError as error:
        raise PromptRefused(f"labels of prompt {name}: {said(error)}", remedy="Write them again.") from None
    if len(labels) > LABELS_MAX:
        raise PromptRefused(f"prompt {name}: more than {LABELS_MAX} labels", remedy="Use fewer.")
    for label, kept in labels.items():
        check_label(label, name)
        for shares in kept[:1]:
            check_shares(shares, f"label {label} of prompt {name}")
    return labels


def check_label(label: str, name: str) -> None:
    """Raise PromptRefused for what cannot be a label: a number is a version."""
    if not NAME.fullmatch(label) or label.isdigit():
        raise PromptRefused(
            f"prompt {name}: {label[:80]!r} is no label: 1 to 64 of A-Z a-z 0-9 . _ -, and no mere number",
            remedy="Choose another name.",
        )


def check_shares(shares: Shares, where: str) -> None:
    """Raise PromptRefused unless they are shares in percent of existing versions' numbers."""
    if not shares or any(version < 1 or share < 1 for version, share in shares.items()):
        raise PromptRefused(
            f"{where}: versions and shares are 1 or more", remedy="VERSION=SHARE, as 3=90 4=10"
        )
    if sum(shares.values()) != SHARES:
        raise PromptRefused(
            f"{where}: the shares make {sum(shares.values())} and not {SHARES}",
            remedy="Give percent: 3=90 4=10",
        )


def moved(labels: Labels, label: str, shares: Shares | None) -> Labels:
    """Give the labels with one standing for something else; None takes it back to what it stood for before.

    Raises:
        PromptRefused: there is nothing before.
    """
    kept = list(labels.get(label, ()))
    if shares is None:
        if len(kept) < 2:
            raise PromptRefused(
                f"label {label} stood for nothing else before",
                remedy="`sluicegate llm prompts label` moves it.",
            )
        return {**labels, label: kept[1:]}
    return {**labels, label: [shares, *kept][:BEFORE_MAX]}


# -- choice -----------------------------------------------------------------------------------------------


def choose(name: str, label: str, labels: Labels, versions: Sequence[int], draw: Draw) -> int:
    """Give the version that a label (or a version's own number) stands for, for one stream.

    Raises:
        PromptRefused: there is no such label or version.
    """
    if label.isascii() and label.isdigit():
        version = int(label[:10])
    else:
        kept = labels.get(label)
        if not kept:
            known = ", ".join(sorted(labels)) or "none"
            raise PromptRefused(
                f"prompt {name} has no label {label[:80]!r}",
                remedy=f"Use one that it has ({known}), or `sluicegate llm prompts label {name} …`.",
            )
        version = _drawn(kept[0], draw(f"prompt {name} {label}"))
    if version not in versions:
        raise PromptRefused(
            f"prompt {name} has no version {version}",
            remedy=f"`sluicegate llm prompts show {name}` lists them.",
        )
    return version


def _drawn(shares: Shares, chance: float) -> int:
    point = chance * sum(shares.values())
    for version in sorted(shares):
        point -= shares[version]
        if point < 0:
            return version
    return max(shares)
