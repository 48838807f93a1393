"""
The wiki: pages in versions, each with the page it supersedes and the documents it is made of.

Pages are records, written under their version. Writing the same version of a page again writes
the same, so a transition that is killed and executed again changes nothing.
"""

from typing import Any

from holdfast import Runtime

PAGE = "wiki.page"
INDEX = "wiki.index"


class Wiki:
    """The pages of one bank."""

    def __init__(self, rt: Runtime, bank: str) -> None:
        """Take the runtime and the name of the bank."""
        self._rt = rt
        self._bank = bank

    async def newest(self, page: str) -> dict[str, Any] | None:
        """Return the newest version of a page, or None."""
        pages = await self._rt.records.list(PAGE, prefix=(self._bank, page), limit=1_000)
        return pages[-1].value if pages else None

    async def write(self, page: dict[str, Any]) -> None:
        """Write one version of a page."""
        key = (self._bank, page["name"], f"{page['version']:06d}")
        await self._rt.records.put(PAGE, key, page)

    async def write_index(self, source: str, names: list[str]) -> None:
        """Write down which pages a document is part of."""
        await self._rt.records.put(INDEX, (self._bank, source), names)

    async def text(self) -> str:
        """Return everything as text: pages, versions, edges, index, in order."""
        lines: list[str] = []
        for record in await self._rt.records.list(PAGE, prefix=(self._bank,), limit=1_000):
            page = record.value
            lines.append(f"== {page['name']}, version {page['version']}, from {page['source']}")
            lines += [f"   {line}" for line in page["lines"]]
            if page["supersedes"]:
                lines.append(f"   supersedes version {page['supersedes']}: {page['reason']}")
        for record in await self._rt.records.list(INDEX, prefix=(self._bank,), limit=1_000):
            lines.append(f"-- {record.key[1]}: {', '.join(record.value)}")
        return "\n".join(lines) + "\n"
