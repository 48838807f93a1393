"""
The documentation runs: every Python block as a program of its own, every shell block checked.

Shell lines that begin with `holdfast` are run against a small store; `make` lines must name a
target of the Makefile; `pip install` lines must name extras that exist.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PREPARE = """
import asyncio, holdfast
@holdfast.state(version=1)
class Chat:
    title: str = ""
async def report(run):
    return await run.step("write", str, 7)
async def main():
    async with holdfast.open("sqlite:///agent.db") as rt:
        for number in range(3):
            await rt.history("chat/user-42").append("turn_added", {"number": number})
        await (await rt.runs.start(report, run_id="report-7")).result()
        async with rt.session(Chat, "user-42") as session, session.edit() as chat:
            chat.title = "lighthouses"
asyncio.run(main())
"""


def blocks(language: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            if match.group(1) == language:
                found.append((f"{page.relative_to(ROOT)}:{line}", match.group(2)))
    return found


def run(arguments: list[str], folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("place", "program"), blocks("python"), ids=lambda value: value[:40])
def test_a_python_block_runs(place: str, program: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(program)
    run([sys.executable, "-W", "error", "program.py"], tmp_path)


@pytest.mark.parametrize(("place", "script"), blocks("sh"), ids=lambda value: value[:40])
def test_a_shell_block_says_what_works(place: str, script: str, tmp_path: Path) -> None:
    run([sys.executable, "-c", PREPARE], tmp_path)
    for line in script.splitlines():
        command = line.split("#")[0].strip()
        if command.startswith("make"):
            check_target(command.split()[1])
        elif command.startswith("pip install"):
            check_extras(command)
        elif command.startswith("holdfast"):
            run(["bash", "-c", command], tmp_path)
        elif command:
            pytest.fail(f"{place}: nobody checks {command!r}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def check_target(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def check_extras(command: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"\[(\w+)\]", command):
        assert extra in project["optional-dependencies"], extra
