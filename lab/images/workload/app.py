"""A small HTTP application: / says who it is, /healthz that it lives."""

import json
import os
import signal
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers every GET with one JSON object."""

    def do_GET(self) -> None:
        """Answer with JSON."""
        body = (
            {"healthy": True}
            if self.path == "/healthz"
            else {"service": os.environ.get("SERVICE"), "host": socket.gethostname()}
        )
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing: a log line per probe helps nobody."""


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
ThreadingHTTPServer(("", 8000), Handler).serve_forever()
