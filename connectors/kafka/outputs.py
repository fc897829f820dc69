"""Where a generation's outputs go: to the topics that its agents name, or to its own beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from connectors.kafka.errors import HeldBack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connectors.kafka.appends import Append


@dataclass(frozen=True, slots=True)
class Outputs:
    """Topics under another name, all without prefix."""

    renamed: Mapping[str, str] = field(default_factory=dict)
    """What is appended to the key goes to the value."""
    held_back: frozenset[str] | None = None
    """Of a generation that is not live: the topics that may be appended to as they are. None = any."""

    def name_of(self, append: Append) -> str:
        """Return the topic that a record goes to.

        Raises:
            HeldBack: it would be seen, or it names the offset of an output that is not the real one.
        """
        topic = append.topic.name
        name = self.renamed.get(topic)
        if self.held_back is None:
            return topic if name is None else name
        if name is not None and append.on_offset is not None:
            raise HeldBack(f"names the offsets of what it writes to {topic}")
        if name is None and topic not in self.held_back:
            raise HeldBack(f"writes {topic}, which its source does not say")
        return topic if name is None else name
