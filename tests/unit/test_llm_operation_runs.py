"""One operation from its request to its end: what is on record when, and what clients see of it."""

from __future__ import annotations

import threading

from connectors.llm import operation
from tests.unit.support_llm_operation import World, said


def test_a_schema_is_checked_beside_the_loop_and_once(monkeypatch):
    threads = []

    def checked(schema, name):
        threads.append(threading.get_ident())
        return answer_schema(schema, name)

    answer_schema = operation.answer_schema
    monkeypatch.setattr(operation, "answer_schema", checked)
    world = World(said("{}")).run(schema_json='{"type": "object"}')
    assert world.end == "completed"
    assert [fields["complete"] for name, _, fields in world.events if name == "structured"] == [True]
    (thread,) = threads
    assert thread != threading.get_ident(), "it takes up to 0.3 s, in which no answer would go on"
