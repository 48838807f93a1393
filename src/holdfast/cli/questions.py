"""Commands around questions: what runs ask, and the answer that counts."""

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from holdfast.cli.exits import EXIT_CODES
from holdfast.cli.output import say
from holdfast.cli.where import (
    Limit,
    ask,
    every,
    filled,
    group,
    show_list,
    show_one,
    value_of,
)
from holdfast.cli.words import Json
from holdfast.core.exits import Exit

if TYPE_CHECKING:
    from holdfast.client import Service

words = group("What runs ask people: list, look, answer.")
QuestionId = Annotated[str, typer.Argument(help="Id of the question, such as report-7?1.")]
_COLUMNS: Final = ("id", "prompt", "choices", "state", "remaining")


@words.command("list", epilog=EXIT_CODES)
def list_(
    context: typer.Context,
    run_id: Annotated[str, typer.Option("--run", help="Only of this run.")] = "",
    state: Annotated[str, typer.Option(help="open, answered, expired or closed.")] = "open",
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """
    List questions; the open ones, if nothing else is said.

    \b
    Example:
      holdfast question list --url http://127.0.0.1:8321
    """

    async def work(service: "Service") -> Exit:
        found = await every(service, "/v1/questions", limit, filled(run=run_id, state=state))
        return show_list(found, _COLUMNS, as_json=as_json)

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def show(context: typer.Context, question_id: QuestionId, as_json: Json = False) -> None:
    """
    Show one question.

    \b
    Example:
      holdfast question show 'report-7?1' --store sqlite:///agent.db
    """

    async def work(service: "Service") -> Exit:
        found = await service.request("GET", service.path("questions", question_id))
        return show_one(found, as_json=as_json)

    ask(context, work)


@words.command(epilog=EXIT_CODES)
def answer(
    context: typer.Context,
    question_id: QuestionId,
    value: Annotated[
        str, typer.Argument(help="JSON, or text as it is; asked for if left out.")
    ] = "",
    comment: Annotated[str, typer.Option(help="For the record.")] = "",
    no_input: Annotated[bool, typer.Option("--no-input", help="Never ask.")] = False,
    as_json: Json = False,
) -> None:
    """
    Answer a question; the first answer counts, and exit code 4 says that another was first.

    \b
    Example:
      holdfast question answer 'report-7?1' yes --url http://127.0.0.1:8321
    """

    async def work(service: "Service") -> Exit:
        told = value
        if not told:
            if no_input or not sys.stdin.isatty():
                say("an answer is needed: give it as the second word")
                return Exit.INPUT_NEEDED
            asked = await service.request("GET", service.path("questions", question_id))
            told = typer.prompt(f"{asked['prompt']} {asked.get('choices') or ''}".strip())
        body = filled(value=value_of(told), comment=comment)
        path = f"{service.path('questions', question_id)}/answer"
        return show_one(await service.request("POST", path, body), as_json=as_json)

    ask(context, work, changes=True)
