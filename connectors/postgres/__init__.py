"""The idempotent PostgreSQL sink."""
