"""What every group of settings has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ops.errors import Misused


class Group(BaseModel):
    """Settings of one part. One that does not exist is an error: it would be ignored, and nobody told."""

    # Without the input: an error's own text, which --debug prints, would show the passwords beside a mistake.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    @classmethod
    def check_word(cls, option: str, value: int | None, name: str) -> None:
        """Hold a word of the command line to the bounds of the setting ``name``, before which it goes.

        None is a word that was not said. Raises Misused with the bounds.
        """
        setting = cls.model_fields[name]
        low, high = (
            next(getattr(one, end) for one in setting.metadata if hasattr(one, end)) for end in ("ge", "le")
        )
        if value is not None and not low <= value <= high:
            raise Misused(f"{option} is from {low} to {high}, not {value}", setting.description or "")
