"""The words of `holdfast key`: keys of a keyring, and rotating a store to the current one."""

from pathlib import Path
from typing import Annotated, Final

import typer

import holdfast
from holdfast.cli.exits import EXIT_CODES, finish, finish_async
from holdfast.cli.output import say, write_json, write_rows
from holdfast.cli.words import Json, Store
from holdfast.core.exits import Exit

app = typer.Typer(no_args_is_help=True, epilog=EXIT_CODES, help="Keys of encrypted stores.")

_PROGRESS_EVERY: Final = 10_000
_FILE_HELP: Final = "File with the keys, readable by you only."
Ring = Annotated[Path, typer.Option("--keyring", envvar="HOLDFAST_KEYRING", help=_FILE_HELP)]


@app.command(epilog=EXIT_CODES)
def create(
    file: Annotated[Path, typer.Argument(dir_okay=False, help=_FILE_HELP)],
    id: Annotated[str, typer.Option("--id", help="Its id; drawn if not given.")] = "",
    standby: Annotated[
        bool, typer.Option("--standby", help="Do not make it the current one yet.")
    ] = False,
) -> None:
    """
    Add a fresh key to a keyring; it is the current one then. Prints its id.

    \b
    Example:
      holdfast key create agent.keys
    """

    def work() -> Exit:
        made = holdfast.Keyring.create(file, id, standby=standby)
        say(f"{made} is in {file}; keep a copy in another place")
        return Exit.DONE

    finish(work)


@app.command(epilog=EXIT_CODES)
def rotate(store: Store, keyring: Ring, as_json: Json = False) -> None:
    """
    Go over to the current key of a keyring, with everything that can be written again.

    Others may work meanwhile, and a rotation that was killed is simply begun again.

    \b
    Example:
      holdfast key rotate --store sqlite:///agent.db --keyring agent.keys
    """
    finish_async(_rotate(store, keyring, as_json=as_json))


@app.command("list", epilog=EXIT_CODES)
def list_(store: Store, keyring: Ring, as_json: Json = False) -> None:
    """
    List the data keys of a store, and which key of the keyring wraps each.

    \b
    Example:
      holdfast key list --store sqlite:///agent.db --keyring agent.keys
    """
    finish_async(_list(store, keyring, as_json=as_json))


async def _rotate(store: str, keyring: Path, *, as_json: bool) -> Exit:
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        if done // _PROGRESS_EVERY != (done + count) // _PROGRESS_EVERY:
            say(f"{done + count} values so far")
        done += count

    async with holdfast.open(store, keyring=keyring) as rt:
        rotated = await rt.keys.rotate(progress)
    if as_json:
        write_json(
            {
                "wrapped": rotated.wrapped,
                "newest": rotated.newest,
                "resealed": rotated.resealed,
                "damaged": rotated.damaged,
            }
        )
    say(
        f"{rotated.wrapped} data keys wrapped anew, {rotated.resealed} values sealed anew "
        f"under data key {rotated.newest}, {rotated.damaged} damaged"
    )
    return Exit.DAMAGED if rotated.damaged else Exit.DONE


async def _list(store: str, keyring: Path, *, as_json: bool) -> Exit:
    async with holdfast.open(store, read_only=True, keyring=keyring) as rt:
        found = await rt.keys.list()
    if as_json:
        for one in found:
            write_json({"number": one.number, "by": one.by, "made_at": one.made_at})
    else:
        rows = [(one.number, one.by, one.made_at) for one in found]
        write_rows(("data key", "wrapped by", "made at"), rows)
    return Exit.DONE
