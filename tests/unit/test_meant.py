"""A name that there is not is answered with the one that was meant, if one is close."""

from __future__ import annotations

import pytest

from connectors.kafka.errors import NoSuchTopic
from schemas.catalog import LocalSchemas
from schemas.errors import UnknownKind, UnknownType
from schemas.kinds import BUILTIN_KINDS
from schemas.meant import meant
from schemas.payloads import PayloadCodec

from .test_cli_app import sluicegate

NAMES = ["job", "log", "progress"]


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("progres", "; did you mean 'progress'?"),
        ("lgo", "; did you mean 'log'?"),
        ("zebra", ""),
        ("", ""),
        ("x" * 100_000, ""),
    ],
)
def test_the_closest_name_is_named_and_a_far_one_is_not(name: str, end: str):
    assert meant(name, NAMES) == end


def test_a_kind_a_type_and_a_topic_are_told_with_what_was_meant(tmp_path):
    with pytest.raises(UnknownKind, match=r"'jbo' is not declared; did you mean 'job'\?"):
        BUILTIN_KINDS.named("jbo")
    with pytest.raises(UnknownType, match=r"for 'progres'; did you mean 'progress'\?"):
        PayloadCodec(LocalSchemas()).encode("progres", {})
    assert str(NoSuchTopic("dead.leters.v1", ["dead.letters.v1"])) == (
        "there is no topic dead.leters.v1; did you mean dead.letters.v1?"
    )
    done = sluicegate(
        tmp_path,
        *("topics", "describe", "streams.outptu.v1"),
        SLUICEGATE_KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:9",
        SLUICEGATE_REGISTRY__URL="http://127.0.0.1:9",
    )
    assert done.returncode == 2
    assert "did you mean 'streams.output.v1'?" in done.stderr
