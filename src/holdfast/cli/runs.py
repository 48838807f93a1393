"""Commands around runs: start, find, explain, watch, change."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from holdfast.cli.exits import EXIT_CODES
from holdfast.cli.output import printable, say, short_json, write_json, write_text
from holdfast.cli.where import (
    Limit,
    Plain,
    Reason,
    ask,
    every,
    filled,
    group,
    show_list,
    show_one,
    value_of,
)
from holdfast.cli.words import Json, taking
from holdfast.core.exits import Exit

if TYPE_CHECKING:
    from holdfast.client import Service

words = group("Start runs, look at them, change them: of a service, or of a store.")
RunId = Annotated[str, typer.Argument(help="Id of the run.")]
After = Annotated[str, typer.Option(help="Id of the event behind which to begin.")]
_COLUMNS: Final = ("id", "function", "status", "explanation", "updated_at")
_ENDS: Final = {"failed": Exit.RUN_FAILED, "cancelled": Exit.RUN_CANCELLED}


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `run start`."""

    context: typer.Context
    function: Annotated[str, typer.Argument(help="Name of a function the service knows.")]
    args: Annotated[list[str] | None, typer.Argument(help="JSON, or text as it is.")] = None
    run_id: Annotated[str, typer.Option("--id", help="Its id; drawn if not given.")] = ""
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, repeatable.")] = None
    session: Annotated[str, typer.Option(help="Id of the session it belongs to.")] = ""
    queue: Annotated[str, typer.Option(help="In which it waits.")] = ""
    priority: Annotated[int, typer.Option(help="Higher goes first.")] = 0
    as_json: Json = False

    @property
    def asked(self) -> Plain:
        """What the service is asked for."""
        labels = [one.partition("=") for one in self.label or []]
        return filled(
            function=self.function,
            args=[value_of(word) for word in self.args or []],
            run_id=self.run_id,
            labels={name: value for name, _, value in labels},
            session_id=self.session,
            queue=self.queue,
            priority=self.priority,
        )


@words.command(epilog=EXIT_CODES)
@taking(Start)
def start(**chosen: Any) -> None:
    """
    Start a run; printed when it is durable.

    \b
    Example:
      holdfast run start report '"lighthouses"' --id report-7 --url http://127.0.0.1:8321
    """
    said = Start(**chosen)

    async def work(service: "Service") -> Exit:
        run = await service.request("POST", "/v1/runs", said.asked)
        say(f"follow it with: holdfast run watch {run['id']}")
        return show_one(run, as_json=said.as_json)

    ask(said.context, work, changes=True)


@words.command("list", epilog=EXIT_CODES)
def list_(
    context: typer.Context,
    status: Annotated[str, typer.Option(help="Only in this status.")] = "",
    function: Annotated[str, typer.Option(help="Only of this function.")] = "",
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, repeatable.")] = None,
    session: Annotated[str, typer.Option(help="Only of the session of this id.")] = "",
    attention: Annotated[bool, typer.Option("--attention", help="That need somebody.")] = False,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """
    List runs.

    \b
    Example:
      holdfast run list --status waiting --json --store sqlite:///agent.db
    """
    labels = [one.replace("=", ":", 1) for one in label or []]
    params = filled(status=status, function=function, label=labels, session=session)
    if attention:
        params["attention"] = "true"

    async def work(service: "Service") -> Exit:
        found = await every(service, "/v1/runs", limit, params)
        return show_list(found, _COLUMNS, as_json=as_json)

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def show(context: typer.Context, run_id: RunId, as_json: Json = False) -> None:
    """
    Show one run.

    \b
    Example:
      holdfast run show report-7 --store sqlite:///agent.db
    """

    async def work(service: "Service") -> Exit:
        return show_one(await service.runs.get(run_id), as_json=as_json)

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def explain(context: typer.Context, run_id: RunId) -> None:
    """
    Say in a sentence why a run is where it is.

    \b
    Example:
      holdfast run explain report-7 --store sqlite:///agent.db
    """

    async def work(service: "Service") -> Exit:
        run = await service.runs.get(run_id)
        write_text(printable(f"{run['status']}: {run.get('explanation') or 'nothing holds it up'}"))
        return Exit.DONE

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def watch(
    context: typer.Context,
    run_id: RunId,
    after: After = "earliest",
    timeout: Annotated[float, typer.Option(min=0, help="Seconds; 0 for ever.")] = 0,
    as_json: Json = False,
) -> None:
    """
    Show what happens to a run until it ends; the exit code says how it did.

    6 if it failed, 7 if it was cancelled, 124 if time ran out before.

    \b
    Example:
      holdfast run watch report-7 --timeout 600 --url http://127.0.0.1:8321
    """

    async def work(service: "Service") -> Exit:
        try:
            async with asyncio.timeout(timeout or None):
                async for event in service.events.follow(run_id, after=after):
                    _show(event, as_json=as_json)
        except TimeoutError:
            say(f"run {run_id} goes on; this stopped looking after {timeout:g} s")
            return Exit.TIMEOUT
        run = await service.runs.get(run_id)
        say(f"run {run_id}: {run['status']}")
        return _ENDS.get(run["status"], Exit.DONE)

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def events(
    context: typer.Context,
    run_id: RunId,
    after: After = "earliest",
    limit: Limit = 1_000,
    as_json: Json = False,
) -> None:
    """
    Show the events of a run so far.

    \b
    Example:
      holdfast run events report-7 --json --store sqlite:///agent.db
    """

    async def work(service: "Service") -> Exit:
        left, behind = limit, after
        while left > 0:
            page = await service.events.page(run_id, after=behind, limit=min(left, 1_000))
            for event in page.items:
                _show(event, as_json=as_json)
            if page.cursor == page.head or not page.items:
                break
            left, behind = left - len(page.items), page.cursor
        return Exit.DONE

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def cancel(
    context: typer.Context,
    run_id: RunId,
    after_step: Annotated[bool, typer.Option("--after-step", help="Let the step end.")] = False,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """
    Ask a run to end.

    \b
    Example:
      holdfast run cancel report-7 --reason "no longer needed" --url http://127.0.0.1:8321
    """
    body = {"mode": "after_step" if after_step else "now", "reason": reason}
    _change(context, run_id, "cancel", body, as_json=as_json)


@words.command(epilog=EXIT_CODES)
def pause(
    context: typer.Context, run_id: RunId, reason: Reason = "", as_json: Json = False
) -> None:
    """
    Let a run rest.

    \b
    Example:
      holdfast run pause report-7 --store sqlite:///agent.db
    """
    _change(context, run_id, "pause", {"reason": reason}, as_json=as_json)


@words.command(epilog=EXIT_CODES)
def resume(
    context: typer.Context,
    run_id: RunId,
    force: Annotated[bool, typer.Option("--force", help="Also with other code.")] = False,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """
    Let a run go on that rests.

    \b
    Example:
      holdfast run resume report-7 --url http://127.0.0.1:8321
    """
    body = {"force": force, "reason": reason}
    _change(context, run_id, "resume", body, as_json=as_json)


@words.command(epilog=EXIT_CODES)
def retry(
    context: typer.Context, run_id: RunId, reason: Reason = "", as_json: Json = False
) -> None:
    """
    Try again; a run that failed goes on as a new one, which is printed.

    \b
    Example:
      holdfast run retry report-7 --url http://127.0.0.1:8321
    """
    _change(context, run_id, "retry", {"reason": reason}, as_json=as_json)


@words.command(epilog=EXIT_CODES)
def signal(
    context: typer.Context,
    run_id: RunId,
    name: Annotated[str, typer.Argument(help="Name of the signal.")],
    value: Annotated[str, typer.Argument(help="JSON, or text as it is.")] = "null",
    as_json: Json = False,
) -> None:
    """
    Send something to a run.

    \b
    Example:
      holdfast run signal report-7 paid '{"amount": 12}' --url http://127.0.0.1:8321
    """
    _change(context, run_id, f"signals/{name}", {"value": value_of(value)}, as_json=as_json)


@words.command(epilog=EXIT_CODES)
def fork(
    context: typer.Context,
    run_id: RunId,
    at: Annotated[str, typer.Option(help="Sequence, or a step such as post#1.")] = "",
    new_id: Annotated[str, typer.Option(help="Id of the new run.")] = "",
    patch: Annotated[Path | None, typer.Option(help="JSON file: results by step.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """
    Start a new run that takes over what a run did, up to a place.

    \b
    Example:
      holdfast run fork report-7 --at post#1 --dry-run --url http://127.0.0.1:8321
    """
    patched = None if patch is None else value_of(patch.read_text(encoding="utf-8"))
    body = filled(at=value_of(at) if at else None, new_id=new_id, patch=patched)
    if dry_run:
        body["dry_run"] = True

    async def work(service: "Service") -> Exit:
        found = await service.request("POST", f"{service.path('runs', run_id)}/fork", body)
        return show_one(found["plan" if dry_run else "run"], as_json=as_json)

    ask(context, work, changes=True)


def _change(context: typer.Context, run_id: str, verb: str, body: Plain, *, as_json: bool) -> None:
    async def work(service: "Service") -> Exit:
        path = service.path("runs", run_id) + f"/{verb}"
        return show_one(await service.request("POST", path, body), as_json=as_json)

    ask(context, work, changes=True)


def _show(event: Any, *, as_json: bool) -> None:
    if as_json:
        write_json(event)
        return
    moment = "" if event.at is None else event.at.isoformat(timespec="milliseconds")
    line = f"{event.seq:>8}  {moment}  {event.type}  {short_json(event.data)}"
    sys.stdout.write(f"{printable(line)}\n")
    sys.stdout.flush()
