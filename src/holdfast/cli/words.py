"""Options that many commands have, once: which store, and whether the answer is JSON."""

from pathlib import Path
from typing import Annotated, Final

import typer

STORE_HELP: Final = "sqlite:///FILE or postgresql://…"
Store = Annotated[str, typer.Option("--store", envvar="HOLDFAST_STORE", help=STORE_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one document per line.")]
Backups = Annotated[Path, typer.Option("--to", file_okay=False, help="Folder of the backups.")]
BackupPath = Annotated[
    Path, typer.Argument(help="Folder of a backup, or of many: the newest of them.")
]
