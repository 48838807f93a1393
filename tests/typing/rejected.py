"""Mistakes that the type checker must find; each line names the error it must be."""

import holdfast
from holdfast import Append, Event, Unit, field, state


@state(version="1")  # E: arg-type
class Totals:
    """Running totals."""

    files: int = 0
    names: list[str] = field(default_factory=list)
    seen: int = field(default=0, kind="gauge")  # E: call-overload


async def misuse(url: str) -> None:
    """Misuse the nouns of a runtime."""
    async with holdfast.open(url) as rt:
        await rt.history(42).append("turn_added")  # E: arg-type
        await rt.history("a").append({"text": "hello"})  # E: arg-type
        await rt.commit(Append("a", ()))  # E: arg-type
        await rt.commit(Unit((Event.of("b"),)))  # E: arg-type
        async with rt.session(Totals, "key") as session, session.edit() as totals:
            totals.missing = 1  # E: attr-defined
        await rt.sessions.reach(Totals, 42)  # E: arg-type
        await rt.latches.set("model", "gpt")  # E: call-arg
        for event in rt.history("a").follow():  # E: attr-defined
            assert event
        await rt.leases.grant("job")  # E: call-arg
