"""What can go wrong for a command.

SluicegateError
└── OpsError                 the operation failed (exit 1)
    ├── Misused              what was asked for makes no sense (exit 2)
    ├── BadFile              a file that was given cannot be read as what it should be
    ├── Refused              the edge said no, and says why
    ├── StreamNotOurs        ingest did not take what we published to a stream
    ├── StageFailed          one stage of the demo failed; the others were stopped
    └── Unreachable          something needed cannot be reached (exit 3)
        ├── NoEdge           no edge runs here and none is configured
        ├── EdgeUnreachable  an edge is configured, but does not answer
        └── NoStack          no local stack runs here and no address is configured
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from schemas.errors import SluicegateError

if TYPE_CHECKING:
    from collections.abc import Mapping


REFUSED: Final = 4
"""Exit code of a worker whose code does not fit what is deployed: another start changes nothing."""


class OpsError(SluicegateError):
    """The operation failed; the remedy says what to do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy=remedy or None)


class Misused(OpsError):
    """Words of the command line that do not go together: correct them."""

    exit_code = 2


class BadFile(OpsError):
    """A file is not what it should be; the place in it is named: correct that line."""

    def __init__(self, where: str, problem: str, remedy: str = "") -> None:
        super().__init__(f"{where}: {problem}", remedy or "correct this line; nothing of it was published")
        self.where = where


class Refused(OpsError):
    """The edge refused a request; its words name the field: correct the event."""

    def __init__(
        self, status: int, problem: str, remedy: str = "", answer: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(problem, remedy)
        self.status = status
        self.answer = answer or {}


class StreamNotOurs(OpsError):
    """Ingest did not accept our event: another producer has this stream, or it ended: take another id."""

    def __init__(self, stream_id: str, verdict: str, detail: str = "") -> None:
        super().__init__(
            f"stream {stream_id}: {verdict}" + (f": {detail}" if detail else ""),
            "a stream opens and ends once and has one producer: choose another --stream, or none",
        )
        self.verdict = verdict


class StageFailed(OpsError):
    """A stage of the demo failed: read the log that is named."""


class Unreachable(OpsError):
    """Something needed cannot be reached: start it, or correct its address."""

    exit_code = 3


class NoEdge(Unreachable):
    """No edge runs here: start one with `sluicegate edge`, or set SLUICEGATE_EDGE__URL."""


class EdgeUnreachable(Unreachable):
    """The edge does not answer: see whether it runs, and whether its address is right."""


class NoStack(Unreachable):
    """No local stack runs here: `sluicegate up`, or set the addresses of your own."""


def exit_code_of(error: SluicegateError) -> int:
    """Exit code of an error of any package: 3 if something needed cannot be reached, else 1 or 2."""
    if isinstance(error, OpsError):
        return error.exit_code
    if "DeployRefused" in {kind.__name__ for kind in type(error).__mro__}:
        return REFUSED
    unreachable = ("RegistryUnavailable", "KafkaUnavailable", "SinkUnavailable", "SinkTimeout")
    lineage = {kind.__name__ for kind in type(error).__mro__}  # by name: their packages may not be loaded
    return Unreachable.exit_code if lineage.intersection(unreachable) else OpsError.exit_code
