"""The edge beside other servers of Server-Sent Events: ``make bench-edge``, told in ``README.md`` beside this."""
