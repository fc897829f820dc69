"""A user's folder with kinds of its own, for scenarios."""
