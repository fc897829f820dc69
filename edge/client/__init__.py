"""What the edge gives browsers to follow streams with."""
