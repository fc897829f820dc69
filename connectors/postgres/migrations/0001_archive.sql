-- oldest: 1
-- Tables of the archive. Names are unqualified: the sink sets search_path to its schema.
--
-- Times are kept as the contract has them, microseconds since 1970 as bigint, and are the truth. The
-- timestamptz beside each is derived for people: int64 microseconds reach to the year 294247 and so fit at
-- the far end, but a time before 4714 BC does not and is NULL there, with nothing lost in the bigint.
-- Text keys compare by byte (COLLATE "C"): an upgrade of the C library cannot reorder their index.

CREATE FUNCTION moment(us bigint) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURNS NULL ON NULL INPUT
    RETURN CASE WHEN us >= -210866803200000000
        THEN timezone('UTC', timestamp '1970-01-01 00:00:00'
            + (us / 86400000000) * interval '24 hours' + (us % 86400000000) * interval '1 microsecond') END;
COMMENT ON FUNCTION moment(bigint) IS
    'Microseconds since 1970 UTC as a timestamp; NULL where PostgreSQL has none (before 4714 BC). '
    'Split by day because interval arithmetic multiplies by a double, exact only to 2^53.';

CREATE TABLE streams (
    tenant                text   COLLATE "C" NOT NULL,
    stream_id             text   COLLATE "C" NOT NULL,
    kind                  text   NOT NULL,
    request_id            text   NOT NULL,
    task_id               text   NOT NULL,
    first_seq             bigint NOT NULL,
    last_seq              bigint NOT NULL,
    events_by_type        jsonb  NOT NULL,
    bytes_by_type         jsonb  NOT NULL,
    opened_us             bigint NOT NULL,
    first_data_us         bigint NOT NULL,
    last_data_us          bigint NOT NULL,
    ended_us              bigint NOT NULL,
    time_to_first_data_us bigint NOT NULL,
    longest_silence_us    bigint NOT NULL,
    end_reason            text   NOT NULL,
    upstream_ids          text[] NOT NULL,
    attempts              bigint NOT NULL,
    cost_nanos            bigint,
    cost_unknown_events   bigint NOT NULL,
    revision              bigint NOT NULL,
    opened     timestamptz GENERATED ALWAYS AS (moment(opened_us)) STORED,
    first_data timestamptz GENERATED ALWAYS AS (moment(nullif(first_data_us, 0))) STORED,
    last_data  timestamptz GENERATED ALWAYS AS (moment(nullif(last_data_us, 0))) STORED,
    ended      timestamptz GENERATED ALWAYS AS (moment(nullif(ended_us, 0))) STORED,
    archived   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, stream_id)
) WITH (fillfactor = 80);  -- a record is revised several times: room on the page keeps that cheap

-- What people ask: a tenant's streams of a time span; everything of one request or task. Ids come from
-- outside and may be long: a hash index has no limit of length, where a B-tree refuses rows above 2.7 kB.
CREATE INDEX streams_by_time ON streams (tenant, opened_us);
CREATE INDEX streams_by_request ON streams USING hash (request_id) WHERE request_id <> '';
CREATE INDEX streams_by_task ON streams USING hash (task_id) WHERE task_id <> '';
CREATE INDEX streams_open ON streams (tenant, last_data_us) WHERE ended_us = 0;

COMMENT ON TABLE streams IS 'Structured record of each stream: its newest revision.';
COMMENT ON COLUMN streams.tenant IS 'Tenant that the stream belongs to.';
COMMENT ON COLUMN streams.stream_id IS 'Id of the stream, unique within its tenant.';
COMMENT ON COLUMN streams.kind IS 'Kind of the stream, whose policies it runs under: job, log, llm, chat or a user''s own.';
COMMENT ON COLUMN streams.request_id IS 'Request that the stream answers; empty if none was named.';
COMMENT ON COLUMN streams.task_id IS 'Task that the stream belongs to; empty = the stream itself.';
COMMENT ON COLUMN streams.first_seq IS 'seq of the first event that was accepted; -1 = none.';
COMMENT ON COLUMN streams.last_seq IS 'seq of the latest event that was accepted; -1 = none.';
COMMENT ON COLUMN streams.events_by_type IS 'Accepted events by type, a JSON object of counts.';
COMMENT ON COLUMN streams.bytes_by_type IS 'Payload bytes of accepted events by type, a JSON object.';
COMMENT ON COLUMN streams.opened_us IS 'Event time of open, microseconds since 1970 UTC.';
COMMENT ON COLUMN streams.first_data_us IS 'Event time of the first data event, microseconds since 1970 UTC; 0 = none yet.';
COMMENT ON COLUMN streams.last_data_us IS 'Event time of the last data event, microseconds since 1970 UTC; 0 = none yet.';
COMMENT ON COLUMN streams.ended_us IS 'Event time of end, microseconds since 1970 UTC; 0 = still open.';
COMMENT ON COLUMN streams.time_to_first_data_us IS 'From open to the first data event, microseconds; -1 = none yet.';
COMMENT ON COLUMN streams.longest_silence_us IS 'Longest time between two events, microseconds.';
COMMENT ON COLUMN streams.end_reason IS 'completed, cancelled, timed_out or upstream_error; empty while open.';
COMMENT ON COLUMN streams.upstream_ids IS 'Ids of upstream calls that the stream depended on, a bounded number of them.';
COMMENT ON COLUMN streams.attempts IS 'Attempts of the operation.';
COMMENT ON COLUMN streams.cost_nanos IS 'Cost of the usage whose cost is known, in 1e-9 USD; NULL = of none is it known, which is not 0.';
COMMENT ON COLUMN streams.cost_unknown_events IS 'Usage events whose cost is not known.';
COMMENT ON COLUMN streams.revision IS 'Revision of the record; a lower one never overwrites a higher one.';
COMMENT ON COLUMN streams.opened IS 'opened_us for people; derived.';
COMMENT ON COLUMN streams.first_data IS 'first_data_us for people; NULL = none yet; derived.';
COMMENT ON COLUMN streams.last_data IS 'last_data_us for people; NULL = none yet; derived.';
COMMENT ON COLUMN streams.ended IS 'ended_us for people; NULL = still open; derived.';
COMMENT ON COLUMN streams.archived IS 'When the archive last wrote this row, by the clock of PostgreSQL.';

CREATE TABLE usage_windows (
    window_start_us bigint  NOT NULL,
    window_ms       bigint  NOT NULL,
    tenant          text    COLLATE "C" NOT NULL,
    kind            text    COLLATE "C" NOT NULL,
    provider        text    COLLATE "C" NOT NULL,
    model           text    COLLATE "C" NOT NULL,
    calls           bigint  NOT NULL,
    errors          bigint  NOT NULL,
    events          bigint  NOT NULL,
    input_tokens    bigint  NOT NULL,
    output_tokens   bigint  NOT NULL,
    cost_nanos      bigint  NOT NULL,
    cost_unknown    bigint  NOT NULL,
    latency_ms_sum  bigint  NOT NULL,
    latency_ms_max  bigint  NOT NULL,
    final           boolean NOT NULL,
    revision        bigint  NOT NULL,
    window_start timestamptz GENERATED ALWAYS AS (moment(window_start_us)) STORED,
    archived     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (window_start_us, window_ms, tenant, kind, provider, model)
) WITH (fillfactor = 80);

CREATE INDEX usage_windows_by_tenant ON usage_windows (tenant, window_start_us);

COMMENT ON TABLE usage_windows IS 'Usage by tenant, kind, provider and model in tumbling windows: newest revision of each.';
COMMENT ON COLUMN usage_windows.window_start_us IS 'Start of the window, event time, microseconds since 1970 UTC.';
COMMENT ON COLUMN usage_windows.window_ms IS 'Length of the window, milliseconds.';
COMMENT ON COLUMN usage_windows.tenant IS 'Tenant.';
COMMENT ON COLUMN usage_windows.kind IS 'Kind of the streams.';
COMMENT ON COLUMN usage_windows.provider IS 'Provider that was called; empty = not named.';
COMMENT ON COLUMN usage_windows.model IS 'Model that was called; empty = not named.';
COMMENT ON COLUMN usage_windows.calls IS 'Calls.';
COMMENT ON COLUMN usage_windows.errors IS 'Calls that failed.';
COMMENT ON COLUMN usage_windows.events IS 'Events that were counted into this window.';
COMMENT ON COLUMN usage_windows.input_tokens IS 'Tokens sent.';
COMMENT ON COLUMN usage_windows.output_tokens IS 'Tokens received.';
COMMENT ON COLUMN usage_windows.cost_nanos IS 'Sum of the costs that are known, in 1e-9 USD; a lower bound if cost_unknown is above 0.';
COMMENT ON COLUMN usage_windows.cost_unknown IS 'Usage events whose cost is not known.';
COMMENT ON COLUMN usage_windows.latency_ms_sum IS 'Sum of latencies, milliseconds.';
COMMENT ON COLUMN usage_windows.latency_ms_max IS 'Longest latency, milliseconds.';
COMMENT ON COLUMN usage_windows.final IS 'True once the window''s grace has passed: it will not change any more.';
COMMENT ON COLUMN usage_windows.revision IS 'Revision of the window; a lower one never overwrites a higher one.';
COMMENT ON COLUMN usage_windows.window_start IS 'window_start_us for people; derived.';
COMMENT ON COLUMN usage_windows.archived IS 'When the archive last wrote this row, by the clock of PostgreSQL.';

CREATE TABLE progress (
    sink      text    COLLATE "C" NOT NULL,
    topic_id  text    COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    topic     text    NOT NULL,
    owner     bigint  NOT NULL,
    next      bigint  NOT NULL,
    updated   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (sink, topic_id, partition)
) WITH (fillfactor = 25);  -- one update a batch: kept on the page, no index is touched

COMMENT ON TABLE progress IS 'Fence and position of each partition. The position here wins over Kafka''s committed offset.';
COMMENT ON COLUMN progress.sink IS 'Name of the sink.';
COMMENT ON COLUMN progress.topic_id IS 'Kafka''s id of the topic: a topic that was deleted and made anew starts anew.';
COMMENT ON COLUMN progress.partition IS 'Partition of the topic.';
COMMENT ON COLUMN progress.topic IS 'Name of the topic at the last claim.';
COMMENT ON COLUMN progress.owner IS 'Number of the claim that may write; each claim raises it, which fences all before it.';
COMMENT ON COLUMN progress.next IS 'Offset of the first record that is not stored yet.';
COMMENT ON COLUMN progress.updated IS 'When position or owner last changed, by the clock of PostgreSQL.';

CREATE TABLE refusals (
    sink          text    COLLATE "C" NOT NULL,
    topic_id      text    COLLATE "C" NOT NULL,
    partition     integer NOT NULL,
    record_offset bigint  NOT NULL,
    problem       text    NOT NULL,
    refused       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (sink, topic_id, partition, record_offset)
);

COMMENT ON TABLE refusals IS 'Records that the archive passed over, written with the position that passed them. A worker that dies before their dead letters are committed in Kafka finds them here and makes them again. Rows that Kafka''s committed offset has passed may be deleted.';
COMMENT ON COLUMN refusals.sink IS 'Name of the sink.';
COMMENT ON COLUMN refusals.topic_id IS 'Kafka''s id of the topic.';
COMMENT ON COLUMN refusals.partition IS 'Partition of the topic.';
COMMENT ON COLUMN refusals.record_offset IS 'Offset of the record.';
COMMENT ON COLUMN refusals.problem IS 'Why it was not stored.';
COMMENT ON COLUMN refusals.refused IS 'When, by the clock of PostgreSQL.';
