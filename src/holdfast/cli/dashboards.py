"""`holdfast dashboards`: what ships for Grafana and Prometheus, copied into a folder of yours."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.exits import EXIT_CODES, finish
from holdfast.cli.output import say, write_json, write_text
from holdfast.core.exits import Exit

words = typer.Typer(no_args_is_help=True, help="Dashboards and alert rules.", epilog=EXIT_CODES)


@words.command("export", epilog=EXIT_CODES)
def export_(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Made if it is not there.")],
    force: Annotated[bool, typer.Option("--force", help="Replace files that differ.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is written.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one per line.")] = False,
) -> None:
    """
    Write dashboards for Grafana and alert rules for Prometheus into a folder.

    A file that was changed there is left as it is, and nothing is written, unless --force is
    given.

    \b
    Example:
      holdfast dashboards export ./monitoring
    """
    finish(lambda: _export(folder, force=force, dry_run=dry_run, as_json=as_json))


def shipped() -> dict[str, bytes]:
    """Return what ships, by file name."""
    folder = files("holdfast.adapters") / "dashboards"
    return {one.name: one.read_bytes() for one in sorted(folder.iterdir(), key=lambda it: it.name)}


def _export(folder: Path, *, force: bool, dry_run: bool, as_json: bool) -> Exit:
    contents = shipped()
    there = {name: folder / name for name in contents if (folder / name).exists()}
    same = {name for name, path in there.items() if path.read_bytes() == contents[name]}
    changed = sorted(set(there) - same)
    if changed and not force:
        say(f"holdfast: {', '.join(changed)} differ in {folder}; --force replaces them")
        return Exit.CONFLICT
    if not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        if name not in same and not dry_run:
            (folder / name).write_bytes(content)
        if as_json:
            write_json({"file": str(folder / name), "written": name not in same and not dry_run})
        else:
            write_text(str(folder / name))
    say(
        f"{len(contents) - len(same)} of {len(contents)} files "
        + ("would be written" if dry_run else "written")
    )
    return Exit.DONE
