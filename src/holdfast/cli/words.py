"""Options that many commands have, once; and commands with more than a function should have."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, get_type_hints

import msgspec
import typer

Command = Callable[..., None]

STORE_HELP: Final = "sqlite:///FILE or postgresql://…"
Store = Annotated[str, typer.Option("--store", envvar="HOLDFAST_STORE", help=STORE_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one document per line.")]
Backups = Annotated[Path, typer.Option("--to", file_okay=False, help="Folder of the backups.")]
BackupPath = Annotated[
    Path, typer.Argument(help="Folder of a backup, or of many: the newest of them.")
]


def taking(shape: type[msgspec.Struct]) -> Callable[[Command], Command]:
    """Return what gives a command the fields of a class as its options, by name."""
    hints = get_type_hints(shape, include_extras=True)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.required else field.default,
            annotation=hints[field.name],
        )
        for field in msgspec.structs.fields(shape)
    ]

    def give(command: Command) -> Command:
        command.__annotations__ = {one.name: one.annotation for one in options}
        command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        return command

    return give
