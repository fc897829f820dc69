"""Protocol buffers of the gRPC transport; `make proto` makes the Python of it."""
