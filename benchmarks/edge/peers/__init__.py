"""Other servers of Server-Sent Events at the same work: what each is made of, and is started with."""
