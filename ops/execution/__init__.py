"""How a command's output becomes a stream: read, understood, delivered."""
