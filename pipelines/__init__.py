"""What is decided: one file an agent, and the composition root."""
