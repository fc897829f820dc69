"""A folder of kinds."""
