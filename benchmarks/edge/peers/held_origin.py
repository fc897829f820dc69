"""What stands behind Pushpin: answers each request with the order to hold it, and on which channel."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hold(BaseHTTPRequestHandler):
    """One answer; Pushpin keeps the client."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Say what Pushpin is to do (Grip)."""
        hint = b"retry: 1000\n\n"
        self.send_response(200)
        for name, value in (
            ("Content-Type", "text/event-stream"),
            ("Content-Length", str(len(hint))),
            ("Grip-Hold", "stream"),
            ("Grip-Channel", self.path.strip("/")),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(hint)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
        """Say nothing of each."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 1_024
    daemon_threads = True


if __name__ == "__main__":
    _Server(("127.0.0.1", int(sys.argv[1])), Hold).serve_forever()
