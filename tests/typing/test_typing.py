"""The public surface is typed: good programs pass the checker, mistakes are found by it."""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def errors_of(program: Path) -> dict[int, str]:
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(program)],
        capture_output=True,
        text=True,
        cwd=HERE.parent.parent,
    )
    found = re.findall(r":(\d+): error: .*\[([\w-]+)\]", checked.stdout)
    return {int(line): code for line, code in found}


def test_a_good_program_passes_the_type_checker() -> None:
    assert errors_of(HERE / "accepted.py") == {}


def test_each_mistake_is_found_by_the_type_checker() -> None:
    program = HERE / "rejected.py"
    expected = {
        number: match.group(1)
        for number, line in enumerate(program.read_text().splitlines(), start=1)
        if (match := re.search(r"# E: ([\w-]+)", line))
    }
    assert errors_of(program) == expected
