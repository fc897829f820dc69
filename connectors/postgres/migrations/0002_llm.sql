-- oldest: 1
-- Tables of language-model calls: the ledger, its windows, and what tasks cost. Code at 1 does not know them.

CREATE TABLE llm_attempts (
    tenant              text COLLATE "C" NOT NULL,
    stream_id           text COLLATE "C" NOT NULL,
    kind                text NOT NULL,
    attempt             bigint NOT NULL,
    epoch               bigint NOT NULL,
    state               text NOT NULL,
    request_id          text NOT NULL,
    task_id             text NOT NULL,
    upstream            text NOT NULL,
    provider            text NOT NULL,
    model               text NOT NULL,
    model_answered      text NOT NULL,
    route               text NOT NULL,
    route_version       bigint NOT NULL,
    prompt              text NOT NULL,
    prompt_version      bigint NOT NULL,
    why                 text NOT NULL,
    requested_us        bigint NOT NULL,
    started_us          bigint NOT NULL,
    connected_us        bigint NOT NULL,
    first_content_us    bigint NOT NULL,
    last_content_us     bigint NOT NULL,
    ended_us            bigint NOT NULL,
    http_status         bigint NOT NULL,
    provider_request_id text NOT NULL,
    finish              text NOT NULL,
    finish_raw          text NOT NULL,
    error_class         text NOT NULL,
    error_raw           text NOT NULL,
    retry_after_ms      bigint NOT NULL,
    input_tokens        bigint,
    cached_input_tokens bigint,
    cache_write_tokens  bigint,
    output_tokens       bigint,
    reasoning_tokens    bigint,
    usage_source        text NOT NULL,
    cost_nanos          bigint,
    cost_source         text NOT NULL,
    price_version       text NOT NULL,
    reserved_tokens     bigint NOT NULL,
    reserved_nanos      bigint NOT NULL,
    contents            bigint NOT NULL,
    characters          bigint NOT NULL,
    chunks              bigint NOT NULL,
    input_json          text,
    output_json         text,
    gate                text NOT NULL,
    end_reason          text NOT NULL,
    worker              text NOT NULL,
    request_partition   bigint NOT NULL,
    request_offset      bigint NOT NULL,
    started timestamptz GENERATED ALWAYS AS (moment(started_us)) STORED,
    ended   timestamptz GENERATED ALWAYS AS (moment(nullif(ended_us, 0))) STORED,
    archived timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, stream_id, attempt)
) WITH (fillfactor = 80);

-- Attempts of a time span, of a task; and, for the retention, those whose input or output is kept.
CREATE INDEX llm_attempts_by_time ON llm_attempts (tenant, started_us);
CREATE INDEX llm_attempts_by_task ON llm_attempts USING hash (task_id) WHERE task_id <> '';
CREATE INDEX llm_attempts_kept ON llm_attempts (started_us)
    WHERE input_json IS NOT NULL OR output_json IS NOT NULL;

COMMENT ON TABLE llm_attempts IS 'The ledger: each call of a language model, begun and, in the same row, settled.';
COMMENT ON COLUMN llm_attempts.tenant IS 'Who pays.';
COMMENT ON COLUMN llm_attempts.stream_id IS 'The operation.';
COMMENT ON COLUMN llm_attempts.kind IS 'Kind of its stream.';
COMMENT ON COLUMN llm_attempts.attempt IS 'Which call of the operation, from 1; 0 = it was refused before any.';
COMMENT ON COLUMN llm_attempts.epoch IS 'Epoch of the stream that its output has.';
COMMENT ON COLUMN llm_attempts.state IS 'started, completed, failed, cancelled, abandoned (its worker died), or refused: no call was made.';
COMMENT ON COLUMN llm_attempts.request_id IS 'The request that it is for.';
COMMENT ON COLUMN llm_attempts.task_id IS 'The task; empty = the stream itself.';
COMMENT ON COLUMN llm_attempts.upstream IS 'What was called: model, retrieval, tool, storage.';
COMMENT ON COLUMN llm_attempts.provider IS 'Who was called.';
COMMENT ON COLUMN llm_attempts.model IS 'Model that was asked for.';
COMMENT ON COLUMN llm_attempts.model_answered IS 'Model that answered, as the provider names it.';
COMMENT ON COLUMN llm_attempts.route IS 'Route by which it was chosen.';
COMMENT ON COLUMN llm_attempts.route_version IS 'Version of it.';
COMMENT ON COLUMN llm_attempts.prompt IS 'Prompt that was rendered; empty = none.';
COMMENT ON COLUMN llm_attempts.prompt_version IS 'Version of it; 0 = none.';
COMMENT ON COLUMN llm_attempts.why IS 'Why this attempt was made: first, retry, fallback, restart, resume, continue, crash.';
COMMENT ON COLUMN llm_attempts.requested_us IS 'When its operation was asked for; 0 = not known.';
COMMENT ON COLUMN llm_attempts.started_us IS 'When it was written down, before the call.';
COMMENT ON COLUMN llm_attempts.connected_us IS 'When the provider answered with a status; 0 = never.';
COMMENT ON COLUMN llm_attempts.first_content_us IS 'When the first content came; 0 = none did.';
COMMENT ON COLUMN llm_attempts.last_content_us IS 'When the latest content came; 0 = none did.';
COMMENT ON COLUMN llm_attempts.ended_us IS 'When it was over; 0 = not yet.';
COMMENT ON COLUMN llm_attempts.http_status IS 'Status that the provider answered; 0 = none.';
COMMENT ON COLUMN llm_attempts.provider_request_id IS 'The provider''s own name for the call.';
COMMENT ON COLUMN llm_attempts.finish IS 'Why it ended, in our words: stop, length, tool_calls, content_filter, refusal, pause, other; empty = did not say.';
COMMENT ON COLUMN llm_attempts.finish_raw IS 'The provider''s own word.';
COMMENT ON COLUMN llm_attempts.error_class IS 'What went wrong, in our words; empty = nothing.';
COMMENT ON COLUMN llm_attempts.error_raw IS 'The provider''s own words, bounded and redacted.';
COMMENT ON COLUMN llm_attempts.retry_after_ms IS 'How long the provider asked to wait; 0 = it did not.';
COMMENT ON COLUMN llm_attempts.input_tokens IS 'Tokens sent, cached ones included; null = not known.';
COMMENT ON COLUMN llm_attempts.cached_input_tokens IS 'Those of them that were read from a cache.';
COMMENT ON COLUMN llm_attempts.cache_write_tokens IS 'Those of them that were written to a cache.';
COMMENT ON COLUMN llm_attempts.output_tokens IS 'Tokens received, reasoning included; null = not known.';
COMMENT ON COLUMN llm_attempts.reasoning_tokens IS 'Those of them that are reasoning.';
COMMENT ON COLUMN llm_attempts.usage_source IS 'Where the numbers come from: provider, estimated, unknown.';
COMMENT ON COLUMN llm_attempts.cost_nanos IS 'Cost in 1e-9 USD; null = unknown, which is never counted as 0.';
COMMENT ON COLUMN llm_attempts.cost_source IS 'known, estimated or unknown.';
COMMENT ON COLUMN llm_attempts.price_version IS 'Which list of prices it was computed by.';
COMMENT ON COLUMN llm_attempts.reserved_tokens IS 'Tokens held of the tenant''s budget while it runs.';
COMMENT ON COLUMN llm_attempts.reserved_nanos IS 'Money held of the tenant''s budget while it runs, 1e-9 USD.';
COMMENT ON COLUMN llm_attempts.contents IS 'Content events that came.';
COMMENT ON COLUMN llm_attempts.characters IS 'Characters of text that came.';
COMMENT ON COLUMN llm_attempts.chunks IS 'Events of the provider that came, of any sort.';
COMMENT ON COLUMN llm_attempts.input_json IS 'What was sent, as the policy lets it be kept; null = not kept.';
COMMENT ON COLUMN llm_attempts.output_json IS 'What came, as the policy lets it be kept; null = not kept.';
COMMENT ON COLUMN llm_attempts.gate IS 'What the gate did: passed, rewritten, ended:REASON; empty = there was none.';
COMMENT ON COLUMN llm_attempts.end_reason IS 'How its operation ended with it: completed, cancelled, timed_out, upstream_error; empty = it goes on.';
COMMENT ON COLUMN llm_attempts.worker IS 'Who made the call.';
COMMENT ON COLUMN llm_attempts.request_partition IS 'Partition of the request.';
COMMENT ON COLUMN llm_attempts.request_offset IS 'Its offset.';
COMMENT ON COLUMN llm_attempts.started IS 'started_us for people; derived.';
COMMENT ON COLUMN llm_attempts.ended IS 'ended_us for people; NULL = not settled; derived.';
COMMENT ON COLUMN llm_attempts.archived IS 'When the archive last wrote this row, by the clock of PostgreSQL.';

CREATE TABLE llm_windows (
    window_start_us      bigint NOT NULL,
    window_ms            bigint NOT NULL,
    tenant               text COLLATE "C" NOT NULL,
    kind                 text COLLATE "C" NOT NULL,
    provider             text COLLATE "C" NOT NULL,
    model                text COLLATE "C" NOT NULL,
    prompt               text COLLATE "C" NOT NULL,
    prompt_version       bigint NOT NULL,
    calls                bigint NOT NULL,
    completed            bigint NOT NULL,
    failed               bigint NOT NULL,
    cancelled            bigint NOT NULL,
    abandoned            bigint NOT NULL,
    refused              bigint NOT NULL,
    retries              bigint NOT NULL,
    fallbacks            bigint NOT NULL,
    restarts             bigint NOT NULL,
    input_tokens         bigint NOT NULL,
    cached_input_tokens  bigint NOT NULL,
    cache_write_tokens   bigint NOT NULL,
    output_tokens        bigint NOT NULL,
    reasoning_tokens     bigint NOT NULL,
    tokens_estimated     bigint NOT NULL,
    tokens_unknown       bigint NOT NULL,
    known_nanos          bigint NOT NULL,
    estimated_nanos      bigint NOT NULL,
    cost_unknown         bigint NOT NULL,
    first_contents       bigint NOT NULL,
    first_content_ms_sum bigint NOT NULL,
    stream_ms_sum        bigint NOT NULL,
    stream_tokens        bigint NOT NULL,
    duration_ms_sum      bigint NOT NULL,
    first_content_ms_max bigint NOT NULL,
    duration_ms_max      bigint NOT NULL,
    errors               jsonb NOT NULL,
    first_content_ms     jsonb NOT NULL,
    final                boolean NOT NULL,
    revision             bigint NOT NULL,
    window_start timestamptz GENERATED ALWAYS AS (moment(window_start_us)) STORED,
    archived timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (window_start_us, window_ms, tenant, kind, provider, model, prompt, prompt_version)
) WITH (fillfactor = 80);

CREATE INDEX llm_windows_by_tenant ON llm_windows (tenant, window_start_us);

COMMENT ON TABLE llm_windows IS 'Attempts that ended, by tenant, kind, provider, model and prompt in tumbling windows: newest revision of each.';
COMMENT ON COLUMN llm_windows.window_start_us IS 'Start of the window in event time, microseconds since 1970.';
COMMENT ON COLUMN llm_windows.window_ms IS 'Length of the window.';
COMMENT ON COLUMN llm_windows.tenant IS 'Who paid.';
COMMENT ON COLUMN llm_windows.kind IS 'Kind of the streams.';
COMMENT ON COLUMN llm_windows.provider IS 'Who was called; empty = nobody, as the request was refused.';
COMMENT ON COLUMN llm_windows.model IS 'Model that was asked for.';
COMMENT ON COLUMN llm_windows.prompt IS 'Prompt that was rendered; empty = none.';
COMMENT ON COLUMN llm_windows.prompt_version IS 'Version of it; 0 = none.';
COMMENT ON COLUMN llm_windows.calls IS 'Attempts that ended: calls that were made.';
COMMENT ON COLUMN llm_windows.completed IS 'Those of them that ended well.';
COMMENT ON COLUMN llm_windows.failed IS 'Those that failed.';
COMMENT ON COLUMN llm_windows.cancelled IS 'Those that were cancelled.';
COMMENT ON COLUMN llm_windows.abandoned IS 'Those whose worker died.';
COMMENT ON COLUMN llm_windows.refused IS 'Requests that were refused before any call; no part of calls.';
COMMENT ON COLUMN llm_windows.retries IS 'Attempts that called the same again after a failure.';
COMMENT ON COLUMN llm_windows.fallbacks IS 'Attempts that called the next choice of the route.';
COMMENT ON COLUMN llm_windows.restarts IS 'Attempts that began anew or went on after content had been shown, or after a crash.';
COMMENT ON COLUMN llm_windows.input_tokens IS 'Tokens sent, as far as known, cached ones included.';
COMMENT ON COLUMN llm_windows.cached_input_tokens IS 'Those of them that were read from a cache.';
COMMENT ON COLUMN llm_windows.cache_write_tokens IS 'Those of them that were written to a cache.';
COMMENT ON COLUMN llm_windows.output_tokens IS 'Tokens received, as far as known, reasoning included.';
COMMENT ON COLUMN llm_windows.reasoning_tokens IS 'Those of them that are reasoning.';
COMMENT ON COLUMN llm_windows.tokens_estimated IS 'Calls whose tokens are estimated.';
COMMENT ON COLUMN llm_windows.tokens_unknown IS 'Calls whose tokens are not known.';
COMMENT ON COLUMN llm_windows.known_nanos IS 'Cost of the calls whose cost is known, 1e-9 USD.';
COMMENT ON COLUMN llm_windows.estimated_nanos IS 'Cost of the calls whose cost is estimated, 1e-9 USD; no part of the known one.';
COMMENT ON COLUMN llm_windows.cost_unknown IS 'Calls whose cost is not known, which is never counted as 0.';
COMMENT ON COLUMN llm_windows.first_contents IS 'Calls that had any content.';
COMMENT ON COLUMN llm_windows.first_content_ms_sum IS 'Sum of their times from the call to the first content.';
COMMENT ON COLUMN llm_windows.stream_ms_sum IS 'Sum of times from first to last content, of calls whose output tokens are known.';
COMMENT ON COLUMN llm_windows.stream_tokens IS 'Output tokens of those calls: over stream_ms_sum they are tokens a second.';
COMMENT ON COLUMN llm_windows.duration_ms_sum IS 'Sum of times from the call to its end.';
COMMENT ON COLUMN llm_windows.first_content_ms_max IS 'Longest time to the first content.';
COMMENT ON COLUMN llm_windows.duration_ms_max IS 'Longest call.';
COMMENT ON COLUMN llm_windows.errors IS 'Calls that did not end well, by class of error.';
COMMENT ON COLUMN llm_windows.first_content_ms IS 'Calls by their time to the first content: upper bound in ms (inf = beyond) to how many; a bound that is not named has none.';
COMMENT ON COLUMN llm_windows.final IS 'No later revision follows.';
COMMENT ON COLUMN llm_windows.revision IS 'Raised with each revision.';
COMMENT ON COLUMN llm_windows.window_start IS 'window_start_us for people; derived.';
COMMENT ON COLUMN llm_windows.archived IS 'When the archive last wrote this row, by the clock of PostgreSQL.';

CREATE TABLE llm_tasks (
    tenant                text COLLATE "C" NOT NULL,
    task_id               text COLLATE "C" NOT NULL,
    begun_us              bigint NOT NULL,
    state                 text NOT NULL,
    end_reason            text NOT NULL,
    started_us            bigint NOT NULL,
    ended_us              bigint NOT NULL,
    last_us               bigint NOT NULL,
    attempts              bigint NOT NULL,
    failed_attempts       bigint NOT NULL,
    running               bigint NOT NULL,
    other_calls           bigint NOT NULL,
    other_errors          bigint NOT NULL,
    known_nanos           bigint NOT NULL,
    estimated_nanos       bigint NOT NULL,
    cost_unknown          bigint NOT NULL,
    input_tokens          bigint NOT NULL,
    output_tokens         bigint NOT NULL,
    tokens_unknown        bigint NOT NULL,
    calls_by_upstream     jsonb NOT NULL,
    known_by_upstream     jsonb NOT NULL,
    estimated_by_upstream jsonb NOT NULL,
    unknown_by_upstream   jsonb NOT NULL,
    revision              bigint NOT NULL,
    begun timestamptz GENERATED ALWAYS AS (moment(begun_us)) STORED,
    ended timestamptz GENERATED ALWAYS AS (moment(nullif(ended_us, 0))) STORED,
    archived timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, task_id, begun_us)
) WITH (fillfactor = 80);

-- What tasks of a time span cost, by when they were last heard of.
CREATE INDEX llm_tasks_by_time ON llm_tasks (last_us, tenant);

COMMENT ON TABLE llm_tasks IS 'What each task cost: all attempts and all usage of other upstreams, newest revision of each.';
COMMENT ON COLUMN llm_tasks.tenant IS 'Who pays.';
COMMENT ON COLUMN llm_tasks.task_id IS 'The task; the id of its root stream, unless that says so by a label.';
COMMENT ON COLUMN llm_tasks.begun_us IS 'Names this life of the task: when what came first of it was. One that was silent for a week begins anew.';
COMMENT ON COLUMN llm_tasks.state IS 'open, completed, failed or cancelled: as its root stream ended.';
COMMENT ON COLUMN llm_tasks.end_reason IS 'Why the root stream ended; empty = it has not.';
COMMENT ON COLUMN llm_tasks.started_us IS 'When the first of its calls began, microseconds since 1970.';
COMMENT ON COLUMN llm_tasks.ended_us IS 'Event time of the root stream''s end; 0 = it has not ended.';
COMMENT ON COLUMN llm_tasks.last_us IS 'Event time of the latest of all, what came after the end too.';
COMMENT ON COLUMN llm_tasks.attempts IS 'Calls of models: every attempt, superseded ones too.';
COMMENT ON COLUMN llm_tasks.failed_attempts IS 'Those of them that did not end well: failed, cancelled or abandoned.';
COMMENT ON COLUMN llm_tasks.running IS 'Those of them that are not settled: what they cost is in none of the sums yet.';
COMMENT ON COLUMN llm_tasks.other_calls IS 'Calls of other upstreams: retrieval, tools, storage.';
COMMENT ON COLUMN llm_tasks.other_errors IS 'Those of them that failed.';
COMMENT ON COLUMN llm_tasks.known_nanos IS 'Cost that is known, 1e-9 USD.';
COMMENT ON COLUMN llm_tasks.estimated_nanos IS 'Cost that is estimated, 1e-9 USD; no part of the known one.';
COMMENT ON COLUMN llm_tasks.cost_unknown IS 'Settled calls, or usage events, whose cost is not known.';
COMMENT ON COLUMN llm_tasks.input_tokens IS 'Tokens sent, as far as known.';
COMMENT ON COLUMN llm_tasks.output_tokens IS 'Tokens received, as far as known.';
COMMENT ON COLUMN llm_tasks.tokens_unknown IS 'Settled calls of models whose tokens are not known.';
COMMENT ON COLUMN llm_tasks.calls_by_upstream IS 'Calls by what was called.';
COMMENT ON COLUMN llm_tasks.known_by_upstream IS 'Known cost by what was called, 1e-9 USD.';
COMMENT ON COLUMN llm_tasks.estimated_by_upstream IS 'Estimated cost by what was called, 1e-9 USD.';
COMMENT ON COLUMN llm_tasks.unknown_by_upstream IS 'Calls or events of unknown cost by what was called.';
COMMENT ON COLUMN llm_tasks.revision IS 'Raised with each revision.';
COMMENT ON COLUMN llm_tasks.begun IS 'begun_us for people; derived.';
COMMENT ON COLUMN llm_tasks.ended IS 'ended_us for people; NULL = has not ended; derived.';
COMMENT ON COLUMN llm_tasks.archived IS 'When the archive last wrote this row, by the clock of PostgreSQL.';
