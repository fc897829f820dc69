-- oldest: 1
-- Whether clients were given anything of an attempt. Code before it leaves it null.

ALTER TABLE llm_attempts ADD COLUMN shown boolean;

COMMENT ON COLUMN llm_attempts.shown IS 'Whether clients were given any content of it, which a gate may hold back; null = not noted, and false of one that is not settled.';
COMMENT ON COLUMN llm_attempts.error_raw IS 'What is known of the failure, without anybody''s words: a provider''s answer by its structure, codes and numbers.';
COMMENT ON COLUMN llm_attempts.output_json IS 'What came, and what the provider said of a failure, as the policy lets it be kept; null = not kept.';
