"""What travels: topics, envelope, kinds, cursor and wire format."""
