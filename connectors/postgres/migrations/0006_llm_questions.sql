-- oldest: 6
-- The attempts of two questions for one stream's name are rows of their own, whatever numbers they have. Code
-- before it stores by the key that went, and is refused: two rows cannot be one again. Rows of before stay.
-- And windows of usage tell what is estimated, and of what nobody counted the tokens.

-- With many millions of rows it takes longer than a migration may: built CONCURRENTLY before, it is there.
CREATE UNIQUE INDEX IF NOT EXISTS llm_attempts_by_question
    ON llm_attempts (tenant, stream_id, request_partition, request_offset, attempt);
ALTER TABLE llm_attempts
    DROP CONSTRAINT llm_attempts_pkey,
    ADD CONSTRAINT llm_attempts_pkey PRIMARY KEY USING INDEX llm_attempts_by_question;

COMMENT ON COLUMN llm_attempts.attempt IS 'Which call of the operation, from 1; 0 = it was refused before any. A name that was asked for again may have it twice: request_partition and request_offset say of which question it is.';

ALTER TABLE usage_windows
    ADD COLUMN tokens_estimated bigint NOT NULL DEFAULT 0,
    ADD COLUMN tokens_unknown   bigint NOT NULL DEFAULT 0,
    ADD COLUMN estimated_nanos  bigint NOT NULL DEFAULT 0;

COMMENT ON COLUMN usage_windows.input_tokens IS 'Tokens sent, as far as known.';
COMMENT ON COLUMN usage_windows.output_tokens IS 'Tokens received, as far as known.';
COMMENT ON COLUMN usage_windows.tokens_estimated IS 'Usage events whose tokens are estimated; 0 in rows of before, which did not tell.';
COMMENT ON COLUMN usage_windows.tokens_unknown IS 'Usage events of which nobody counted the tokens; 0 in rows of before, which did not tell.';
COMMENT ON COLUMN usage_windows.cost_nanos IS 'Sum of the costs that are known, in 1e-9 USD; of rows of before with what was estimated.';
COMMENT ON COLUMN usage_windows.estimated_nanos IS 'Sum of the costs that are estimated, in 1e-9 USD; no part of cost_nanos.';
