"""
The demo's judgement: what was promised against what is there, through the public API only.

It reads every event, folds them itself, reads the files itself, and compares. Nothing that a
worker counted is taken for true except what it said was acknowledged.
"""

from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

import holdfast
from holdfast import RecordedEvent, Runtime
from holdfast.cli.ingest import Fact, Running, Totals, checksum, stream_of
from holdfast.cli.lives import Tale
from holdfast.cli.sources import Sources

Facts = dict[str, dict[int, Fact]]  # By stream and sequence.
_PAGE: Final = 5_000
_NAMED_MAX: Final = 3


class Verdict(msgspec.Struct):
    """
    What the audit found.

    Attributes:
        acknowledged: answers that the store gave and a worker passed on.
        found: those whose event is there, the very one that was answered.
        lost: those whose event is not.
        repeated: files recorded or acknowledged more than once.
        unanswered: files recorded whose answer died with the worker.
        checksum: checksum of the whole, from the events.
        whole: it is the checksum of the files.
        changed: files that somebody changed while the demo ran.
        findings: what `verify` found.
        broken: each broken promise in words; empty if all were kept.
    """

    acknowledged: int = 0
    found: int = 0
    lost: int = 0
    repeated: int = 0
    unanswered: int = 0
    checksum: str = ""
    whole: bool = False
    changed: int = 0
    findings: int = 0
    broken: list[str] = []


async def audit(store: str, label: str, sources: Sources, tale: Tale) -> Verdict:
    """Open the store for reading and compare."""
    verdict = Verdict()
    async with holdfast.open(store, read_only=True) as rt:
        facts = await _facts(rt, label, sources)
        _compare_answers(verdict, facts, tale)
        _compare_files(verdict, facts, sources)
        await _compare_totals(verdict, rt, label, sources, facts)
        _compare_buffered(verdict, tale)
        findings = await rt.verify()
    verdict.findings = len(findings)
    for finding in findings[:_NAMED_MAX]:
        verdict.broken.append(
            f"damaged {finding.what} {finding.name} {finding.sequence or ''}: {finding.reason}"
        )
    return verdict


async def _facts(rt: Runtime, label: str, sources: Sources) -> Facts:
    facts: Facts = {}
    for package in sources.packages:
        history = rt.history(stream_of(label, package.name))
        own = facts[history.name] = {}
        page: list[RecordedEvent] = await history.read(limit=_PAGE)
        while page:
            for event in page:
                own[event.sequence] = event.data_as(Fact)
            page = await history.read(page[-1].sequence, _PAGE)
    return facts


def _compare_answers(verdict: Verdict, facts: Facts, tale: Tale) -> None:
    answers = tale.acknowledged
    missing = [one for one in answers if facts[one.stream].get(one.sequence) != one.fact]
    verdict.acknowledged = len(answers)
    verdict.lost = len(missing)
    verdict.found = len(answers) - len(missing)
    for one in missing[:_NAMED_MAX]:
        verdict.broken.append(
            f"{one.stream} {one.sequence} ({one.fact.path}) was acknowledged and is lost"
        )
    recorded = Counter(fact.path for own in facts.values() for fact in own.values())
    answered = Counter(one.fact.path for one in answers)
    twice = sorted(path for path in recorded | answered if max(recorded[path], answered[path]) > 1)
    verdict.repeated = len(twice)
    verdict.unanswered = len(recorded.keys() - answered.keys())
    for path in twice[:_NAMED_MAX]:
        verdict.broken.append(f"{path} was done twice")
    for path in sorted(recorded.keys() - tale.tried)[:_NAMED_MAX]:
        verdict.broken.append(f"{path} is recorded, but nobody tried to record it")


def _compare_files(verdict: Verdict, facts: Facts, sources: Sources) -> None:
    digests = {fact.path: fact.sha256 for own in facts.values() for fact in own.values()}
    verdict.checksum = checksum(digests)
    verdict.whole = verdict.checksum == checksum(sources.digests)
    if verdict.whole:
        return
    for path, digest in sources.digests.items():
        if digests.get(path) == digest:
            continue
        if path in digests and _digest_now(Path(sources.root, path)) != digest:
            verdict.changed += 1
        elif path in digests:
            verdict.broken.append(f"{path} is recorded with another content than it has")
        else:
            verdict.broken.append(f"{path} was not recorded")
    for path in sorted(digests.keys() - sources.digests.keys())[:_NAMED_MAX]:
        verdict.broken.append(f"{path} is recorded, but was never asked for")


async def _compare_totals(
    verdict: Verdict, rt: Runtime, label: str, sources: Sources, facts: Facts
) -> None:
    """Compare durable totals with the fold of the events, and the buffered ones with those."""
    whole = Totals()
    for package in sources.packages:
        stream = stream_of(label, package.name)
        own = facts[stream].values()
        folded = Totals(
            files=len(own),
            lines=sum(fact.lines for fact in own),
            bytes=sum(fact.bytes for fact in own),
        )
        async with rt.session(Totals, (label, package.name)) as session:
            if session.value != folded:
                verdict.broken.append(f"{stream}: durable totals are not the fold of the events")
        whole.files += folded.files
        whole.lines += folded.lines
        whole.bytes += folded.bytes
    async with rt.session(Running, label) as running:
        found = running.value
    if (found.files, found.lines, found.bytes) != (whole.files, whole.lines, whole.bytes):
        verdict.broken.append("the buffered totals differ from the events at the end")


def _compare_buffered(verdict: Verdict, tale: Tale) -> None:
    if any(behind < 0 for behind in tale.behind):
        verdict.broken.append("after a kill the buffered totals were ahead of the durable ones")


def _digest_now(path: Path) -> str:
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
