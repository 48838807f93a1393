"""Commands around artifacts: bytes that runs left behind."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from holdfast.cli.exits import EXIT_CODES
from holdfast.cli.output import say
from holdfast.cli.where import Limit, ask, every, group, show_list
from holdfast.cli.words import Json
from holdfast.core.exits import Exit

if TYPE_CHECKING:
    from holdfast.client import Service

words = group("Bytes that runs left behind: list them, get them.")
RunId = Annotated[str, typer.Argument(help="Id of the run.")]
_COLUMNS: Final = ("name", "size", "media_type", "digest", "attached_at")


@words.command("list", epilog=EXIT_CODES)
def list_(context: typer.Context, run_id: RunId, limit: Limit = 100, as_json: Json = False) -> None:
    """
    List the artifacts of a run.

    \b
    Example:
      holdfast artifact list report-7 --store sqlite:///agent.db
    """

    async def work(service: "Service") -> Exit:
        path = f"{service.path('runs', run_id)}/artifacts"
        return show_list(await every(service, path, limit, {}), _COLUMNS, as_json=as_json)

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def get(
    context: typer.Context,
    run_id: RunId,
    name: Annotated[str, typer.Argument(help="Name of the artifact.")],
    output: Annotated[
        Path | None, typer.Option("--output", dir_okay=False, help="A new file; else stdout.")
    ] = None,
) -> None:
    """
    Write the bytes of an artifact to stdout, or into a new file.

    The name is never used as a path: a file is written where --output says, and nowhere else.

    \b
    Example:
      holdfast artifact get report-7 report.md --store sqlite:///agent.db --output report.md
    """

    async def work(service: "Service") -> Exit:
        content = await service.artifacts.read(run_id, name)
        if output is None:
            sys.stdout.buffer.write(content)
            return Exit.DONE
        with output.open("xb") as file:
            file.write(content)
        say(f"{output}: {len(content)} bytes")
        return Exit.DONE

    ask(context, work)
