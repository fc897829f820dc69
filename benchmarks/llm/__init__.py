"""Answers of language models beside LiteLLM's proxy: ``make bench-llm``; see ``README.md``."""
