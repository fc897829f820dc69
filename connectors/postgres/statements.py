"""The statements about positions and refusals; those that store rows are made in `tables.py`."""

from __future__ import annotations

CLAIM = """
INSERT INTO {schema}.progress AS held (sink, topic_id, partition, topic, owner, next)
VALUES (%s, %s, %s, %s, 1, %s)
ON CONFLICT (sink, topic_id, partition)
DO UPDATE SET owner = held.owner + 1, topic = EXCLUDED.topic, updated = clock_timestamp()
RETURNING owner, next
"""
FENCE = """
UPDATE {schema}.progress SET next = %s, updated = clock_timestamp()
WHERE sink = %s AND topic_id = %s AND partition = %s AND owner = %s AND next = %s
"""
HELD = "SELECT owner, next FROM {schema}.progress WHERE sink = %s AND topic_id = %s AND partition = %s"
HELD_FOR_GOOD = f"{HELD} FOR UPDATE"
REFUSE = """
INSERT INTO {schema}.refusals (sink, topic_id, partition, record_offset, problem)
SELECT %s, %s, %s, given.record_offset, given.problem
FROM json_to_recordset(%s::json) AS given (record_offset bigint, problem text)
ON CONFLICT DO NOTHING
"""
SETTLE = """
DELETE FROM {schema}.refusals
WHERE sink = %s AND topic_id = %s AND partition = %s AND record_offset < %s
"""
FORGET_CONTENTS = """
UPDATE {schema}.llm_attempts AS kept SET input_json = NULL, output_json = NULL
FROM (
    SELECT tenant, stream_id, request_partition, request_offset, attempt FROM {schema}.llm_attempts
    WHERE (input_json IS NOT NULL OR output_json IS NOT NULL)
        AND started_us < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - %s
    ORDER BY started_us LIMIT %s FOR UPDATE SKIP LOCKED
) AS old
WHERE (kept.tenant, kept.stream_id, kept.request_partition, kept.request_offset, kept.attempt)
    = (old.tenant, old.stream_id, old.request_partition, old.request_offset, old.attempt)
"""
FORGET_CONNECTIONS = """
DELETE FROM {schema}.connections AS kept
USING (
    SELECT tenant, stream_id, edge, connection FROM {schema}.connections
    WHERE time_us < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - %s
    ORDER BY time_us LIMIT %s FOR UPDATE SKIP LOCKED
) AS old
WHERE (kept.tenant, kept.stream_id, kept.edge, kept.connection)
    = (old.tenant, old.stream_id, old.edge, old.connection)
"""
REFUSED = """
SELECT record_offset, problem FROM {schema}.refusals
WHERE sink = %s AND topic_id = %s AND partition = %s AND record_offset >= %s AND record_offset < %s
ORDER BY record_offset
"""
