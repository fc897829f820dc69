-- oldest: 1
-- What an attempt's tokens are, besides text. Code before it leaves it empty.

ALTER TABLE llm_attempts ADD COLUMN usage_details jsonb NOT NULL DEFAULT '{}';

COMMENT ON COLUMN llm_attempts.usage_details IS 'Of the tokens those of another sort than text, as far as the provider told them apart: input_audio, cached_image, output_audio, cache_write_1h, …';
