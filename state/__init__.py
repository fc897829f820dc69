"""What is remembered: stores, windows, de-duplication, changelog and checkpoint."""
