"""
Another process on the same store, told by its arguments what to do.

`start URL KEY`   wait for a line, open, ask for the lease, say what was answered, wait, end
`write URL`       append until a line comes; say `ready` before the first
`lock FILE`       try to begin a transaction with SQLite alone; say whether it was allowed
`take FILE`       try for the lock of one who has the file for himself; say the same
"""

import asyncio
import fcntl
import sys
import threading
from pathlib import Path

import holdfast
from holdfast.core.errors import LeaseHeldError

# Where SQLite keeps the locks of a file: https://www.sqlite.org/src/doc/trunk/src/os.h
SHARED_FIRST, SHARED_BYTES = 0x40000002, 510


def say(line: str) -> None:
    """Say something to the parent."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def start(url: str, key: str) -> None:
    """Open a store together with others and ask for a lease."""
    say("here")
    sys.stdin.readline()
    async with holdfast.open(url) as rt:
        try:
            token = (await rt.leases.grant(key, 3600.0, holder=rt.opened.incarnation.hex())).token
            say(f"won {token.generation} {token.incarnation.hex()}")
        except LeaseHeldError as held:
            say(f"held {held.generation} {held.holder}")
        say(f"epoch {rt.opened.epoch}")
        sys.stdin.readline()


async def write(url: str) -> None:
    """Append as fast as possible."""
    told = threading.Event()
    listener = threading.Thread(target=lambda: (sys.stdin.readline(), told.set()))
    listener.start()
    async with holdfast.open(url) as rt:
        say("ready")
        while not told.is_set():
            await rt.history("partner").append("n", 0)
    listener.join()


def lock(file: str) -> None:
    """Try what must not be possible while somebody else writes."""
    import apsw

    db = apsw.Connection(file, flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.execute("BEGIN IMMEDIATE")
        say("allowed")
    except apsw.BusyError:
        say("busy")
    db.close()


def take(file: str) -> None:
    """Try what must not be possible while somebody else has the file open: SQLite's EXCLUSIVE."""
    with Path(file).open("r+b") as opened:
        try:
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB, SHARED_BYTES, SHARED_FIRST)
            say("allowed")
        except BlockingIOError:
            say("busy")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["start", url, key]:
            asyncio.run(start(url, key))
        case ["write", url]:
            asyncio.run(write(url))
        case ["lock", file]:
            lock(file)
        case ["take", file]:
            take(file)
