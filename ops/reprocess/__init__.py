"""The next generation of a role, built beside the one that runs: docs/adr/0010-reprocessing.md."""
