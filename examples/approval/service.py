"""
The service outside, in a process of its own: `python -m examples.approval.service JOURNAL`.

    PUT  /publications/KEY   keeps a document; the same key again gets the same answer
    PUT  /letters/KEY        sends a letter, each time it is asked; does not look at the key
    GET  /letters/KEY        what became of a letter

Every request names a run and carries the fencing token of who sends it. Of each run the highest
token counts: a request with a smaller one comes from an owner that was overtaken and is refused.
So whoever has asked about a letter knows that no older owner can still send it.

The journal is a file to which one line per arrival is appended and synced before the answer
goes out; it knows nothing of Holdfast.
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple


class Arrival(NamedTuple):
    """
    A request as it stands in the journal.

    Attributes:
        run: for which run.
        what: `publications` or `letters`.
        key: its Idempotency-Key.
        token: of who sent it.
        did: `applied`, `known` (by its key), `refused` (by its token), or `asked`.
        answer: what was answered.
    """

    run: str
    what: str
    key: str
    token: int
    did: str
    answer: str


def arrivals(journal: Path, run: str) -> list[Arrival]:
    """Read what arrived for a run."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    found = [Arrival(*json.loads(line)) for line in lines]
    return [one for one in found if one.run == run]


class Desk:
    """Decides what is done with a request, and writes it down first."""

    def __init__(self, journal: Path) -> None:
        """Take the journal."""
        self._journal = journal
        self._lock = threading.Lock()
        self._highest: dict[str, int] = {}
        self._answers: dict[tuple[str, str], str] = {}

    def take(self, method: str, path: str, run: str, token: int, body: bytes) -> tuple[int, str]:
        """Return status and answer of a request."""
        _, what, key = path.split("/")
        with self._lock:
            did, answer = self._decide(method, what, key, run, token, body)
            self._write(Arrival(run, what, key, token, did, answer))
        refused = 409 if did == "refused" else 404
        return (200 if answer else refused), answer

    def _decide(
        self, method: str, what: str, key: str, run: str, token: int, body: bytes
    ) -> tuple[str, str]:
        if token < self._highest.get(run, 0):
            return "refused", ""
        self._highest[run] = token
        known = self._answers.get((what, key), "")
        if method == "GET":
            return "asked", known
        if known and what == "publications":
            return "known", known
        answer = f"{what}-{hashlib.sha256(body).hexdigest()[:12]}"
        self._answers[what, key] = answer
        return "applied", answer

    def _write(self, arrival: Arrival) -> None:
        with self._journal.open("a") as file:
            file.write(json.dumps(arrival) + "\n")
            file.flush()
            os.fsync(file.fileno())


def handler(desk: Desk) -> type[BaseHTTPRequestHandler]:
    """Return the class that takes requests to the desk."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) == length:  # Whoever died while sending did not ask for anything.
                self._answer(body)

        def do_GET(self) -> None:
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            run, token = self.headers["Run-Id"], int(self.headers["Fencing-Token"])
            status, answer = desk.take(self.command, self.path, run, token, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing; there is the journal."""

    return Handler


class Server(ThreadingHTTPServer):
    """Does not complain when a client was killed."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Whoever asked is not there any more."""


def main(arguments: Iterable[str]) -> None:
    """Serve on a free port until killed; print the port first."""
    (journal,) = arguments
    server = Server(("127.0.0.1", 0), handler(Desk(Path(journal))))
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
