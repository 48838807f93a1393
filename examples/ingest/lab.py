"""The ingest in the crash lab: a folder of documents, twice, and a wiki that has to come of it."""

from pathlib import Path
from typing import Any, NamedTuple

from examples.ingest.machine import BANK, document_machine
from examples.ingest.wiki import Wiki
from holdfast import Runtime
from holdfast.testing.crashlab import Lab

FOLDER = Path(__file__).parent / "documents"
EXPECTED = Path(__file__).parent / "wiki.txt"
"""What an uninterrupted run makes of the documents, byte for byte."""


class Document(NamedTuple):
    """A document: its source, which revision of it, and its text."""

    source: str
    revision: int
    text: str


def documents() -> list[Document]:
    """Return the documents, the revised ones behind the first ones."""
    return [
        Document(path.stem, revision, path.read_text(encoding="utf-8"))
        for revision, folder in enumerate(("first", "revised"), 1)
        for path in sorted((FOLDER / folder).glob("*.md"))
    ]


async def ingest(rt: Runtime, lab: Lab | None = None) -> None:
    """Read every document into the wiki; what is done already is not done again."""
    machine = document_machine(rt)
    for document in documents():
        pipeline = rt.pipeline(machine, (BANK, document.source))
        # The second revision of a document is the second version of its pipeline.
        if len(await pipeline.versions()) <= document.revision:
            await pipeline.run({"source": document.source, "text": document.text})
        if lab is not None:
            lab.acknowledged([document.source, document.revision])


async def work(lab: Lab) -> None:
    """Ingest, or go on with it."""
    async with lab.open() as rt:
        await ingest(rt, lab)


async def invariant(rt: Runtime, acknowledged: list[list[Any]]) -> None:
    """What was acknowledged is done; going on leads to the wiki of an uninterrupted run."""
    machine = document_machine(rt)
    for source, revision in acknowledged:
        checkpoint = await rt.pipeline(machine, (BANK, source)).checkpoint(revision)
        assert checkpoint.next == "done", f"{source}, revision {revision} was acknowledged"
    await ingest(rt)
    await every_state_once(rt)
    text = await Wiki(rt, BANK).text()
    assert text == EXPECTED.read_text(encoding="utf-8"), "another wiki than the uninterrupted one"


async def every_state_once(rt: Runtime) -> None:
    """See that no state was recorded twice, and that each led to the next."""
    machine = document_machine(rt)
    for newest in await rt.pipelines.list(machine.name):
        pipeline = rt.pipeline(machine, newest.key)
        for version in range(1, newest.version + 1):
            log = await pipeline.log(version)
            done = [one.state for one in log if not one.error]
            assert len(done) == len(set(done)), f"{newest.run_id}: a state was recorded twice"
            assert done[0] == "read" and log[-1].next == "done"
