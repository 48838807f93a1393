"""
The pipeline of one document: read, look at it from three sides, write the pages it changes.

    read -> prepare (names | headings | words) -> normalise -> find -> write -> index -> done

The sections of a document are derived: they are not stored, but split off its text again
whenever a state needs them.
"""

import re
from collections import Counter
from typing import Any

from examples.ingest.wiki import Wiki
from holdfast import Machine, Retry, Runtime

BANK = "kelp"
# An attempt that is killed counts, and in the lab every state is killed.
INSIST = Retry(attempts=1_000, backoff=0.01, longest=0.05)
_NAME = re.compile(r"\[\[([^\]]+)\]\]")


def document_machine(rt: Runtime) -> Machine:
    """Return the machine; its states write to the wiki in this runtime's store."""
    machine = Machine("ingest", initial="read", final={"done"})
    wiki = Wiki(rt, BANK)
    _declare_reading(machine)
    _declare_writing(machine, wiki)
    return machine


def _declare_reading(machine: Machine) -> None:
    @machine.derive("sections")
    def sections(ctx: Any) -> list[str]:
        """Split the text; asked for by several states, built where it is needed."""
        return re.split(r"^#+ .*\n", ctx.input["text"], flags=re.MULTILINE)[1:]

    @machine.on("read", to="prepare", retry=INSIST)
    async def read(step: Any, ctx: Any) -> None:
        ctx["source"] = ctx.input["source"]
        ctx["title"] = ctx.input["text"].splitlines()[0].removeprefix("# ")

    machine.parallel("prepare", ["names", "headings", "words"], join="normalise")

    @machine.on("names", to="normalise", retry=INSIST)
    async def names(step: Any, ctx: Any) -> None:
        ctx["names"] = [name for part in ctx["sections"] for name in _NAME.findall(part)]

    @machine.on("headings", to="normalise", retry=INSIST)
    async def headings(step: Any, ctx: Any) -> None:
        ctx["headings"] = re.findall(r"^#+ (.*)$", ctx.input["text"], flags=re.MULTILINE)

    @machine.on("words", to="count", retry=INSIST)
    async def words(step: Any, ctx: Any) -> None:
        ctx["words"] = re.findall(r"[a-z]+", " ".join(ctx["sections"]).lower())

    @machine.on("count", to="normalise", retry=INSIST)
    async def count(step: Any, ctx: Any) -> None:
        common = Counter(ctx.pop("words")).most_common(3)
        ctx["common"] = [word for word, _ in common]

    @machine.on("normalise", to={"some": "find", "none": "done"}, retry=INSIST)
    async def normalise(step: Any, ctx: Any) -> str:
        ctx["names"] = sorted({name.lower() for name in ctx["names"]})
        ctx.note(f"{len(ctx['names'])} names")
        return "some" if ctx["names"] else "none"


def _declare_writing(machine: Machine, wiki: Wiki) -> None:
    @machine.on("find", to="write", retry=INSIST)
    async def find(step: Any, ctx: Any) -> None:
        """Decide which pages are written, from the wiki as it is now; recorded, so decided once."""
        plan: list[dict[str, Any]] = []
        for name in ctx["names"]:
            before = await wiki.newest(name)
            lines = _sentences(ctx["sections"], name)
            kept = [] if before is None else before["lines"]
            added = [f"{line} ({ctx['source']})" for line in lines]
            whole = [line for line in kept if not line.endswith(f"({ctx['source']})")] + added
            plan.append(
                {
                    "name": name,
                    "version": 1 if before is None else before["version"] + 1,
                    "source": ctx["source"],
                    "lines": whole,
                    "supersedes": 0 if before is None else before["version"],
                    "reason": ctx["title"],
                }
            )
        ctx["plan"] = plan

    @machine.on("write", to="index", retry=INSIST, effect="idempotent")
    async def write(step: Any, ctx: Any) -> None:
        for page in ctx["plan"]:
            await wiki.write(page)
        ctx["written"] = [f"{page['name']}@{page['version']}" for page in ctx.pop("plan")]

    @machine.on("index", to="done", retry=INSIST, effect="idempotent")
    async def index(step: Any, ctx: Any) -> None:
        await wiki.write_index(ctx["source"], ctx["names"])


def _sentences(sections: list[str], name: str) -> list[str]:
    """Return the sentences of a document that name something."""
    text = " ".join(" ".join(sections).split())
    found = re.split(r"(?<=\.) ", text)
    return [line for line in found if f"[[{name}]]" in line.lower()]
