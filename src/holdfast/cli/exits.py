"""How commands end: the exit code that the work deserves, and what is said about it."""

import asyncio
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

import typer

from holdfast.cli.output import say
from holdfast.core.errors import HoldfastError
from holdfast.core.exits import Exit, exit_of, exit_of_check

EXIT_CODES: Final = "Exit codes: " + "; ".join(f"{int(one)} {one.meaning}" for one in Exit) + "."


def finish_async(work: Coroutine[Any, Any, Exit], *, check: bool = False) -> NoReturn:
    """Run a coroutine, then end the command as `finish` does."""
    finish(lambda: asyncio.run(work), check=check)


def finish(work: Callable[[], Exit], *, check: bool = False) -> NoReturn:
    """
    End the command with the code that its work deserves.

    Args:
        work: what the command does.
        check: it is a check: what it cannot reach is unchecked, not unavailable.
    """
    raise typer.Exit(int(_ending(work, exit_of_check if check else exit_of)))


def _ending(work: Callable[[], Exit], judged: Callable[[HoldfastError], Exit]) -> Exit:
    try:
        ending = work()
        sys.stdout.flush()
    except HoldfastError as error:
        say(f"holdfast: {error}")
        return judged(error)
    except KeyboardInterrupt:
        say("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Nobody reads any more; what is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.UNHEARD
    except TimeoutError:
        say("holdfast: time ran out")
        return Exit.TIMEOUT
    except OSError as error:
        say(f"holdfast: {error.filename or 'system'}: {error.strerror}")
        return Exit.UNCHECKED if judged is exit_of_check else Exit.UNAVAILABLE
    except Exception as error:
        # Frames and type, but not the message: it may quote what is stored.
        frames = "".join(traceback.format_tb(error.__traceback__))
        say(f"holdfast: a fault in Holdfast ({type(error).__name__}); please report it with this")
        sys.stderr.write(frames)
        return Exit.UNEXPECTED
    return ending
