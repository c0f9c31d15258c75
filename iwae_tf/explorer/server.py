"""The page over HTTP, for browsers on this machine."""

import http.server
import json
import sys
import threading
from importlib import resources
from typing import Any

from iwae_tf.errors import InvalidInputError
from iwae_tf.explorer.session import Session

HOST = "127.0.0.1"
# A page elsewhere must not read these through a name of its own for this machine.
NAMES = {"127.0.0.1", "localhost"}
MOST_BYTES = 2**26  # of a question
QUESTIONS = ("about", "encode", "decode", "score", "weights", "interpolate", "scores")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "img-src data: blob:; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Server(http.server.ThreadingHTTPServer):
    """Answers `GET /` with the page, and `POST /NAME` with what a session says.

    Args:
      session: the model and its images.
      port: of this machine; 0 is any that is free, and `url` says which.

    Raises:
      OSError: the port is in use.
    """

    daemon_threads = True

    def __init__(self, session: Session, port: int) -> None:
        self.session = session
        self.lock = threading.Lock()  # one question at a time has all cores
        self.page = resources.files("iwae_tf.explorer").joinpath("page.html")
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints the traceback, unless a browser has left before its answer came."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def parse_request(self) -> bool:
        """Whether there is something to answer: a refusal is sent otherwise."""
        if not super().parse_request():
            return False
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host not in NAMES:
            self.send_error(403)
        return host in NAMES

    def do_GET(self) -> None:
        if self.path != "/":
            self.send_error(404)
            return
        self._send(200, "text/html; charset=utf-8", self.server.page.read_bytes())

    def do_POST(self) -> None:
        name = self.path.removeprefix("/")
        # A form elsewhere can post, but not this type.
        if self.headers.get_content_type() != "application/json":
            self.send_error(415)
            return
        if name not in QUESTIONS:
            self.send_error(404)
            return
        try:
            code, answer = 200, self._answer(name)
        except (InvalidInputError, ValueError, TypeError, OverflowError) as error:
            code, answer = 400, {"error": " ".join(str(error).split())}
        body = json.dumps(answer, allow_nan=False).encode()
        self._send(code, "application/json", body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def _answer(self, name):
        size = int(self.headers.get("Content-Length", 0))
        if not 0 < size <= MOST_BYTES:
            raise InvalidInputError(
                f"a request must have at most {MOST_BYTES:,} bytes. Received: {size:,}"
            )
        arguments = json.loads(self.rfile.read(size))
        with self.server.lock:
            return getattr(self.server.session, name)(**arguments)

    def _send(self, code, kind, body):
        self.send_response(code)
        for header, value in (
            HEADERS | {"Content-Type": kind, "Content-Length": str(len(body))}
        ).items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(body)
