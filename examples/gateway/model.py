"""
A scripted model behind HTTP: it answers by what it was told, and keeps a journal.

The same words always get the same answer at the same price, so two runs can be compared. The
journal is what the world outside has seen of the gateway: each call with the turn it was for
and the generation under which the gateway made it.
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

FRAGILE = "fragile"
"""The name of a model that never answers."""


PATIENCE = 90.0
"""Seconds; a process frozen inside a transaction of PostgreSQL may hold up others for 30 s."""


class Call(NamedTuple):
    """The gateway asked for an answer to a turn, under this generation of the session's work."""

    turn: str
    session: str
    generation: int


def answer(text: str) -> dict[str, Any]:
    """Return what the model makes of a message; two tokens leave for each that enters."""
    digest = hashlib.sha256(text.encode()).digest()
    return {
        "answer": f"I hear you: {digest[:4].hex()}",
        "input_tokens": len(text),
        "output_tokens": 2 * len(text),
        "cost": 100 + digest[0],
    }


class Model:
    """
    The model's server, in threads of this process; use it with `with`.

    Attributes:
        journal: every call, in the order of arrival.
    """

    def __init__(self, delay: float = 0.0) -> None:
        """Listen on a free port; an answer takes up to `delay` seconds."""
        self.journal: list[Call] = []
        self._delay = delay
        self._heard = threading.Condition()
        self._held: dict[str, threading.Event] = {}
        self._server = _Server(("127.0.0.1", 0), _handler(self))

    @property
    def url(self) -> str:
        """Where the gateway finds it."""
        return f"http://127.0.0.1:{self._server.server_port}/answer"

    def wait(self, turn: str, times: int = 1) -> None:
        """Wait until it was asked for a turn so many times."""
        with self._heard:
            asked = self._heard.wait_for(
                lambda: sum(call.turn == turn for call in self.journal) >= times, PATIENCE
            )
        assert asked, f"the model was not asked for {turn} {times} times"

    def hold(self, turn: str) -> None:
        """Think about this turn until `release`."""
        self._held[turn] = threading.Event()

    def release(self, turn: str) -> None:
        """Answer the turn, now and whenever it is asked again."""
        self._held.pop(turn).set()

    def ask(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        """Note the call, think, answer; None if this model fails."""
        with self._heard:
            self.journal.append(Call(asked["turn"], asked["session"], asked["generation"]))
            self._heard.notify_all()
        said = answer(asked["text"])
        held = self._held.get(asked["turn"])
        if held is not None:
            held.wait()
        else:
            threading.Event().wait(self._delay * (said["cost"] - 100) / 255)
        return None if asked["model"] == FRAGILE else said

    def __enter__(self) -> Self:
        """Begin to answer."""
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and let go of whoever waits."""
        for held in self._held.values():
            held.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: whoever asked was killed, and that is what we are here for."""


def _handler(model: Model) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            said = model.ask(asked)
            body = json.dumps(said).encode()
            self.send_response(200 if said else 500)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet; the journal is what counts."""

    return Handler
