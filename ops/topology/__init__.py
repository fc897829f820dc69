"""What runs, drawn: the roles' agents, the topics between them, their state and their sinks."""
