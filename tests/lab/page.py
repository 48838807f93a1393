"""
The report of the lab as one page: made from the content of `build/lab.json` and nothing else.

It needs no network and no script, is readable on a phone and on paper. What a run did not earn is
not on it: the headline comes from the report.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tests.lab.report import track_record

_STYLE = Path(__file__).with_name("page.css")


def page_of(content: Mapping[str, Any]) -> str:
    """Return the page."""
    parts = [
        f"<h1>Holdfast: the crash lab, {escape(content['started'][:10])}</h1>",
        f"<p class='headline'>{escape(content['headline'])}</p>",
        f"<code class='command'>{escape(content['command'])}</code>",
        _tiles(content),
        _failures(content),
        _section("What was wanted", _wanted(content)),
        _section("Cases by layer", _cases(content), "The scale is logarithmic."),
        _section("Layers", _layers(content)),
        _section(
            "Planted bugs",
            _plants(content),
            "Known ways to break a promise, built in on "
            "purpose. A layer that does not find its own proves nothing.",
        ),
        _section(
            "Rare states",
            _reached(content),
            "States that have to occur sometimes, or the "
            "tests would not be about them, and how often they did.",
        ),
        _section(
            "What the lab found so far",
            _track_record(),
            "Bugs that were in this code, and the test in which each would show again.",
        ),
        _section("Made with", _versions(content)),
    ]
    mood = "good" if content["ok"] else "bad"
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Holdfast: the crash lab</title>\n<style>\n{_STYLE.read_text()}</style></head>\n"
        f"<body class='{mood}'>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _section(title: str, body: str, about: str = "") -> str:
    if not body:
        return ""
    said = f"<p class='soft'>{escape(about)}</p>" if about else ""
    return f"<h2>{escape(title)}</h2>{said}{body}"


def _tiles(content: Mapping[str, Any]) -> str:
    planted = content["planted"]
    figures = [
        ("lost", content["lost"], content["lost"]),
        ("unnoticed", content["unnoticed"], content["unnoticed"]),
        ("planted bugs found", f"{planted['found']}/{planted['total']}",
         planted["found"] < planted["total"]),
    ]  # fmt: skip
    names = {
        "images": "crash images",
        "cuts": "power cuts",
        "calls": "failed I/O calls",
        "kills": "kills",
        "seeds": "simulated runs",
        "schedules": "orders of SQL",
        "states": "states of the protocol",
        "damages": "damages",
    }
    figures += [(words, content[key], False) for key, words in names.items() if content[key]]
    tiles = [
        f"<div class='tile'><b{' class=no' if bad else ''}>{_said(number)}</b>"
        f"<span>{escape(words)}</span></div>"
        for words, number, bad in figures
    ]
    return f"<div class='tiles'>{''.join(tiles)}</div>"


def _failures(content: Mapping[str, Any]) -> str:
    said = [f"<li><code>{escape(one)}</code></li>" for one in content["failures"]]
    notes = [f"<li>{escape(one)}</li>" for one in content["notes"]]
    failures = _section("Failures", f"<ul>{''.join(said)}</ul>" if said else "")
    return failures + _section("Not done here", f"<ul>{''.join(notes)}</ul>" if notes else "")


def _wanted(content: Mapping[str, Any]) -> str:
    bars = [
        (one["what"], one["reached"] / max(1, one["wanted"]),
         f"{_said(one['reached'])} of {_said(one['wanted'])}", "met" if one["met"] else "miss")
        for one in content["wanted"]
    ]  # fmt: skip
    bars += [
        (f"goal: {goal['what']}", goal["share"],
         f"{_said(goal['reached'])} of {_said(goal['wanted'])}", "bar")
        for goal in content["goals"]
    ]  # fmt: skip
    return _bars(bars)


def _cases(content: Mapping[str, Any]) -> str:
    layers = {name: layer for name, layer in content["layers"].items() if layer["cases"]}
    most = max((math.log10(1 + layer["cases"]) for layer in layers.values()), default=1.0)
    return _bars(
        (name, math.log10(1 + layer["cases"]) / most, _main(layer), "bar")
        for name, layer in layers.items()
    )


def _main(layer: Mapping[str, Any]) -> str:
    what = max(layer["counts"], key=layer["counts"].__getitem__)
    return f"{_said(layer['cases'])} {'hunts' if what == 'planted' else what}"


def _layers(content: Mapping[str, Any]) -> str:
    heads = ("layer", "what", "#CPU s", "#per CPU s", "#lost", "#unnoticed", "#jobs", "seed")
    rows = [
        (
            name,
            ", ".join(f"{_said(number)} {what}" for what, number in layer["counts"].items()),
            f"{layer['cpu_seconds']:,.0f}",
            f"{layer['rate']:,.0f}",
            _said(layer["lost"]),
            _said(layer["unnoticed"]),
            f"{layer['done']}/{layer['jobs']}",
            f"{layer['seeds'][0]}" + f", {len(layer['seeds'])} rounds" * (len(layer["seeds"]) > 1),
        )
        for name, layer in content["layers"].items()
    ]
    return _table(heads, rows)


def _plants(content: Mapping[str, Any]) -> str:
    rows = [
        (
            plant["name"].replace("-", " "),
            plant["by"].replace("_", " "),
            f"{plant['seconds']:.1f}",
            "found" if plant["found"] else "NOT FOUND",
        )
        for plant in sorted(content["plants"], key=lambda one: (one["by"], one["name"]))
    ]
    return _table(("bug", "to be found by", "#seconds", ""), rows) if rows else ""


def _reached(content: Mapping[str, Any]) -> str:
    found = content["reached"]
    rows = [(name, _said(number) if number else "NEVER") for name, number in found.items()]
    return _table(("state", "#times"), rows) if rows else ""


def _track_record() -> str:
    rows = [(by, what.replace("`", "")) for by, what, _ in track_record()]
    return _table(("found by", "bug"), rows)


def _versions(content: Mapping[str, Any]) -> str:
    took = f"{content['took'] / 60:.1f} minutes from {content['started']}"
    return _table(("", ""), [*content["versions"].items(), ("took", took)])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a head that begins with # is that of numbers."""
    numbers = [head.startswith("#") for head in heads]

    def cells(kind: str, texts: Sequence[str]) -> str:
        marks = [" class='n'" if number else "" for number in numbers]
        return "".join(
            f"<{kind}{mark}>{_marked(text)}</{kind}>"
            for mark, text in zip(marks, texts, strict=True)
        )

    head = cells("th", [head.lstrip("#") for head in heads]) if any(heads) else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<div class='wide'><table><tr>{head}</tr>{body}</table></div>"


def _marked(text: str) -> str:
    kind = {"found": "yes", "NOT FOUND": "no", "NEVER": "no"}.get(text)
    return f"<span class='{kind}'>{escape(text)}</span>" if kind else escape(text)


def _bars(bars: Iterable[tuple[str, float, str, str]]) -> str:
    """Return a figure of horizontal bars: name, share of the full length, number, kind."""
    rows = [
        f"<div class='row'><span>{escape(words)}</span>"
        "<svg viewBox='0 0 100 10' preserveAspectRatio='none' aria-hidden='true'>"
        "<rect class='track' width='100' height='10'/>"
        f"<rect class='{kind}' width='{max(0.4, 100 * min(1.0, share)):.1f}' height='10'/></svg>"
        f"<span class='soft'>{escape(said)}</span></div>"
        for words, share, said, kind in bars
    ]
    return f"<div class='bars'>{''.join(rows)}</div>" if rows else ""


def _said(number: object) -> str:
    return f"{number:,}" if isinstance(number, int) else str(number)
