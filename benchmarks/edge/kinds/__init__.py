"""A folder as a user has one, which gives the edge kinds of its own."""
