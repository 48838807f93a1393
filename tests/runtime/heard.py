"""A hook that keeps what it is told, for the tests."""

from holdfast.core.telemetry import Ended, Notice, Span


class Heard:
    """Keeps notices and spans in the order in which they came."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.begun: list[Span] = []
        self.ended: list[tuple[str, Ended]] = []

    def notice(self, notice: Notice) -> None:
        """Keep a notice."""
        self.notices.append(notice)

    def begin(self, span: Span) -> None:
        """Keep a span that begins."""
        self.begun.append(span)

    def end(self, span: Span, ended: Ended) -> None:
        """Keep how a span ended."""
        self.ended.append((span.id, ended))

    def of(self, name: str) -> list[Notice]:
        """Return the notices with a name."""
        return [notice for notice in self.notices if notice.name == name]

    def labels(self, name: str) -> list[dict[str, str]]:
        """Return the labels of the notices with a name."""
        return [dict(notice.labels) for notice in self.of(name)]

    def total(self, name: str, number: str) -> float:
        """Return a number of the notices with a name, summed up."""
        return sum(notice.numbers[number] for notice in self.of(name))
