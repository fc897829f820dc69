"""Other servers of Server-Sent Events at the same work: each is a process that is started and stopped here."""
