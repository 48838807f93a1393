"""
A client that takes a little of a stream, and then what it is let take; run by the tests, frozen.

    python -m tests.http.sleeper PORT PATH TOKEN
"""

import socket
import sys
from typing import Final

END: Final = b"0\r\n\r\n"
"""The last part of an answer that is whole."""


def main(port: int, path: str, token: str) -> None:
    """Read until the other side ends it, and print how."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        asked = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        connection.sendall(f"{asked}Accept: text/event-stream\r\n\r\n".encode())
        connection.recv(1_000)
        sys.stdout.write("reading\n")
        sys.stdout.flush()
        sys.stdin.readline()
        last = b""
        try:
            while part := connection.recv(65_536):
                last = (last + part)[-len(END) :]
        except ConnectionError:
            last = b""
        sys.stdout.write("ended\n" if last == END else "cut\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
