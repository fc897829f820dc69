"""One full record of each subject, with every field away from its default."""

from __future__ import annotations

from typing import Any, Final

_US: Final = 1_795_391_999_123_456

_USAGE: Final[dict[str, Any]] = {
    "window_start_us": _US, "window_ms": 60_000, "tenant": "acme", "kind": "llm", "provider": "p",
    "model": "m-1", "calls": 9, "errors": 1, "events": 11, "input_tokens": 1_000, "output_tokens": 2_000,
    "tokens_estimated": 5, "tokens_unknown": 6, "cost_nanos": 4_000_000_000, "estimated_nanos": 7_000,
    "cost_unknown": 2, "latency_ms_sum": 900, "latency_ms_max": 300,
}  # fmt: skip

_LLM_WINDOW: Final[dict[str, Any]] = {
    "window_start_us": _US, "window_ms": 60_000, "tenant": "acme", "kind": "llm", "provider": "p",
    "model": "m-1", "prompt": "greet-é", "prompt_version": 7, "calls": 9, "completed": 5, "failed": 2,
    "cancelled": 1, "abandoned": 1, "refused": 3, "retries": 2, "fallbacks": 1, "restarts": 4,
    "input_tokens": 2**33, "cached_input_tokens": 2**32, "cache_write_tokens": 11, "output_tokens": 2_000,
    "reasoning_tokens": 700, "tokens_estimated": 2, "tokens_unknown": 1, "known_nanos": 4_000_000_000,
    "estimated_nanos": 5_000, "cost_unknown": 2, "first_contents": 6, "first_content_ms_sum": 1_200,
    "stream_ms_sum": 9_000, "stream_tokens": 1_900, "duration_ms_sum": 12_000, "first_content_ms_max": 450,
    "duration_ms_max": 3_100, "errors": {"server": 2, "cancelled": 1}, "first_content_ms": {"500": 6},
}  # fmt: skip

RECORDS: Final[dict[str, dict[str, Any]]] = {
    "sluicegate.Event": {
        "event_id": "01a205cc-5d6a-7a43-93fd-a7ffae8e4894", "tenant": "acme", "stream_id": "build:7._-",
        "seq": 2**40 + 1, "kind": "log", "type": "log", "time": _US, "source": "make é",
        "request_id": "req-1", "task_id": "task-1", "upstream_id": "up-1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "epoch": 2, "attempt": 3,
        "payload": b"\x00\xff\x80payload", "payload_schema": 2**31 - 1,
    },
    "sluicegate.StreamIndex": {
        "tenant": "acme", "stream_id": "build-7", "kind": "log", "partition": 3, "topic_version": 2,
        "opened_us": _US, "open_offset": 17,
        "marks": [
            {"seq": 1_000, "offset": 2_020, "bytes": 70_000}, {"seq": 2_000, "offset": 2**33, "bytes": 2**34},
        ],
        "last_seq": 2_500, "bytes": 2**34 + 7, "end_offset": 2**33 + 900, "end_seq": 2_500,
        "ended_us": _US + 5, "end_reason": "completed", "updated_us": _US + 5, "title": "make -j4",
        "labels": {"branch": "main"},
    },
    "sluicegate.StreamRecord": {
        "request_id": "req-1", "task_id": "task-1", "stream_id": "build-7", "tenant": "acme", "kind": "llm",
        "first_seq": 0, "last_seq": 12, "events_by_type": {"token": 10}, "bytes_by_type": {"token": 100},
        "opened_us": _US, "first_data_us": _US + 1, "last_data_us": _US + 9, "ended_us": _US + 10,
        "time_to_first_data_us": 1, "longest_silence_us": 4, "end_reason": "completed",
        "upstream_ids": ["a", "b"], "attempts": 2, "cost_nanos": 77, "cost_unknown_events": 1, "revision": 13,
    },
    "sluicegate.Reject": {
        "event_id": "e-1", "tenant": "acme", "stream_id": "build-7", "seq": 3, "type": "log",
        "verdict": "out_of_order", "detail": "expected seq 5", "topic": "streams.input.v1", "partition": 2,
        "offset": 2**35, "time_us": _US,
    },
    "sluicegate.DeadLetter": {
        "topic": "streams.input.v1", "partition": 1, "offset": 2**34, "key": b"acme/build-7",
        "value": b"\x00\x00\x00\x00\x09\xff", "schema_id": 9, "cause": "Undecodable", "detail": "cut",
        "agent": "ingest", "code_version": "0.1.0", "attempts": 3, "time_us": _US,
        "headers": [{"name": "trace-é", "value": b"\x00\xff"}, {"name": "trace-é", "value": None}],
        "raised_at": "agents/mine.py:17 in handle", "generation": 2,
    },
    "sluicegate.DeadLetterReplay": {
        "partition": 1, "offset": 2**34, "letter_time_us": _US, "to_topic": "eu.streams.input.v1",
        "to_partition": 3, "by": "ann@host-é", "reason": "schema 9 is registered now",
        "to_role": "totals", "to_generation": 2,
    },
    "sluicegate.LateEvent": {
        "topic": "streams.output.v1", "partition": 1, "offset": 2**34, "key": b"acme/build-7",
        "value": b"\x00\x00\x00\x00\x09\xff", "schema_id": 9, "agent": "usage_partials", "detail": "cut",
        "event_time_us": _US - 400_000_000, "watermark_us": _US - 2_000_000, "time_us": _US,
        "headers": [{"name": "trace-é", "value": b"\x00\xff"}, {"name": "trace-é", "value": None}],
    },
    "sluicegate.Control": {
        "role": "ingest", "partition": 3, "action": "pause", "by": "ann@host-é", "reason": "poison at 17",
    },
    "sluicegate.Role": {
        "role": "totals", "generation": 2, "candidate": 3, "attempt": "3c0d1e", "from_ms": _US // 1_000,
        "cut": True, "switching": True,
        "stores": [{
            "changelog": "totals.changelog.v1", "topic": "totals.changelog.s2.0f.v1", "topic_id": "iD-é_",
            "version": 2, "parts": "[]", "migration": "wider", "target": "totals.changelog.s3.1e.v1",
            "marked": True,
        }],
        "by": "ann@host-é", "reason": "sums were wrong",
    },
    "sluicegate.Audit": {
        "action": "pause", "target": "ingest/3", "by": "ann@host-é", "reason": "poison at 17",
        "undo": "sluicegate resume ingest 3 --yes",
    },
    "sluicegate.Pressure": {
        "tenant": "acme", "stream_id": "build-7", "kind": "job", "edge": "host-é-1a2b", "subscribers": 5,
        "behind": 4,
    },
    "sluicegate.ConnectionEvent": {
        "tenant": "acme", "stream_id": "build-7", "kind": "job", "action": "gap", "edge": "host-é-1a2b",
        "connection": 2**40, "transport": "sse", "peer": "127.0.0.1:5000", "time_us": _US, "reason": "slow",
        "seq": 12, "from_seq": 7, "to_seq": 12, "count": 6, "events": 7, "bytes": 2**33, "duration_ms": 99,
        "subject": "ann-é", "revision": 3, "resumed": True, "opened_us": _US - 99_000, "gaps": 1,
        "dropped": 6,
    },
    "sluicegate.Revocation": {
        "what": "sub", "name": "ann-é", "issued_until_us": _US, "until_us": _US + 3_600_000_000,
        "by": "ann@host-é", "reason": "laptop lost",
    },
    "sluicegate.UsagePartial": {**_USAGE, "source_partition": 2, "final": True, "revision": 4},
    "sluicegate.UsageWindow": {**_USAGE, "final": True, "revision": 4},
    "sluicegate.LlmPartial": {**_LLM_WINDOW, "source_partition": 2, "final": True, "revision": 4},
    "sluicegate.LlmWindow": {**_LLM_WINDOW, "final": True, "revision": 4},
    "sluicegate.LlmTaskPart": {
        "tenant": "acme", "task_id": "task-é", "part": "attempt:answer-7/2", "rank": 1, "upstream": "model",
        "end_reason": "completed", "attempts": 1, "failed_attempts": 2, "running": 3, "other_calls": 4,
        "other_errors": 5, "known_nanos": 2**33, "estimated_nanos": 6, "cost_unknown": 7, "input_tokens": 8,
        "output_tokens": 9, "tokens_unknown": 10, "started_us": _US, "time_us": _US + 1,
    },
    "sluicegate.LlmTask": {
        "tenant": "acme", "task_id": "task-é", "begun_us": _US, "state": "completed",
        "end_reason": "completed", "started_us": _US + 1, "ended_us": _US + 2, "last_us": _US + 3,
        "attempts": 3, "failed_attempts": 2, "running": 1, "other_calls": 4, "other_errors": 5,
        "known_nanos": 2**33, "estimated_nanos": 6, "cost_unknown": 7, "input_tokens": 8, "output_tokens": 9,
        "tokens_unknown": 10, "calls_by_upstream": {"model": 3, "retrieval": 4},
        "known_by_upstream": {"model": 2**33}, "estimated_by_upstream": {"retrieval": 6},
        "unknown_by_upstream": {"retrieval": 7}, "revision": 12,
    },
    "sluicegate.LlmRequest": {
        "tenant": "acme", "stream_id": "answer-7", "kind": "kind-1", "request_id": "request_id-1",
        "task_id": "task_id-1", "traceparent": "traceparent-1", "source": "source-é", "time_us": _US,
        "opened": True, "route": "route-1", "model": "model-1", "prompt": "prompt-1",
        "prompt_label": "prompt_label-1", "variables_json": '{"a": 1}', "messages_json": '{"a": 1}',
        "tools_json": '{"a": 1}', "schema_json": '{"a": 1}', "schema_name": "schema_name-1",
        "params_json": '{"a": 1}', "deadline_ms": 2**33 + 19, "after_content": "after_content-1",
        "side_effects": True, "open_id": "open_id-1", "on_invalid": "on_invalid-1",
        "no_reset": True,
    },
    "sluicegate.LlmAttempt": {
        "tenant": "acme", "stream_id": "answer-7", "kind": "kind-1", "attempt": 4, "epoch": 5,
        "state": "state-1", "request_id": "request_id-1", "task_id": "task_id-1", "upstream": "upstream-1",
        "provider": "provider-1", "model": "model-1", "model_answered": "model_answered-1",
        "model_named": False, "route": "route-1", "route_version": 14, "prompt": "prompt-1",
        "prompt_version": 16,
        "why": "why-1", "requested_us": _US - 5, "started_us": _US, "connected_us": _US + 18,
        "first_content_us": _US + 19, "last_content_us": _US + 20, "ended_us": _US + 21, "http_status": 23,
        "provider_request_id": "provider_request_id-1", "finish": "finish-1", "finish_raw": "finish_raw-1",
        "error_class": "error_class-1", "error_raw": "error_raw-é", "retry_after_ms": 2**33 + 28,
        "input_tokens": 2**33 + 29, "cached_input_tokens": 2**33 + 30, "cache_write_tokens": 2**33 + 31,
        "output_tokens": 2**33 + 32, "reasoning_tokens": 2**33 + 33,
        "usage_details": {"input_audio": 2**33 + 34}, "usage_source": "usage_source-1",
        "cost_nanos": 2**33 + 35, "cost_source": "cost_source-1", "price_version": "price_version-1",
        "reserved_tokens": 2**33 + 38, "reserved_nanos": 2**33 + 39, "contents": 2**33 + 40,
        "shown": True, "characters": 2**33 + 41, "chunks": 2**33 + 42, "input_json": '{"a": 1}',
        "output_json": '{"a": 1}', "gate": "gate-1", "end_reason": "completed", "worker": "worker-1",
        "request_partition": 48, "request_offset": 2**33 + 48,
    },
    "sluicegate.LlmRaw": {
        "tenant": "acme", "stream_id": "answer-7", "attempt": 3, "shape": "shape-1",
        "first_index": 2**33 + 4, "at_us": [1, 2**40], "events": ["a", ""], "chunks": ['{"a":1}', "é"],
        "status": 529, "headers": {"retry-after": "7"}, "comments": [1], "epoch": 12,
    },
    "sluicegate.LlmRoute": {
        "name": "name-1", "version": 2, "config_json": '{"a": 1}', "by": "by-é", "reason": "reason-1",
        "time_us": _US,
    },
    "sluicegate.LlmPrompt": {
        "name": "name-1", "version": 2, "template_json": '{"a": 1}', "labels_json": '{"a": 1}',
        "by": "by-é", "reason": "reason-1", "time_us": _US,
    },
    "sluicegate.payload.open": {
        "labels": {"branch": "main"}, "idle_timeout_ms": 5_000, "total_timeout_ms": 60_000, "title": "make",
    },
    "sluicegate.payload.reset": {"from_seq": 7, "reason": "retry"},
    "sluicegate.payload.gap": {"from_seq": 7, "to_seq": 9, "count": 3, "reason": "missing_input"},
    "sluicegate.payload.end": {
        "reason": "upstream_error", "message": "no", "exit_code": -9, "events": 12, "bytes": 345,
    },
    "sluicegate.payload.cancel": {"reason": "too slow", "by": "a person"},
    "sluicegate.payload.tick": {"due_us": _US},
    "sluicegate.payload.progress": {"done": 2.5, "total": 10.0, "unit": "tests", "message": "linking"},
    "sluicegate.payload.log": {"line": "é \x1b[0m", "level": "error", "stream": "stderr", "partial": True},
    "sluicegate.payload.token": {
        "text": " word", "role": "tool", "index": 1, "channel": "tool", "call_id": "c-1", "tool": "find",
    },
    "sluicegate.payload.usage": {
        "provider": "p", "model": "m-1", "calls": 2, "errors": 1, "input_tokens": 10, "output_tokens": 20,
        "cost_nanos": 30, "latency_ms": 40, "provenance": "estimated", "cached_input_tokens": 4,
        "cache_write_tokens": 3, "reasoning_tokens": 6,
    },
    "sluicegate.payload.state": {"name": "phase", "value_json": '{"a":1}'},
    "sluicegate.payload.media": {"mime": "image/png", "index": 2, "data": b"\x89PNG", "reference": "s3://x"},
    "sluicegate.payload.structured": {
        "schema_name": "answer", "json": "{}", "complete": False, "problem": "a is missing",
    },
    "sluicegate.payload.message": {"from": "ann", "text": "hello"},
    "sluicegate.payload.custom": {"name": "n", "json": "[]"},
}  # fmt: skip
