"""The edge beside other servers of Server-Sent Events: ``make bench-edge``; see ``README.md``."""
