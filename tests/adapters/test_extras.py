"""An extra that is not installed is named, with the line that installs it."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
sys.modules[sys.argv[1]] = None  # As if it were not installed.
import holdfast
from holdfast.core.errors import MissingExtraError
try:
    __import__(sys.argv[2])
except MissingExtraError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("library", "adapter", "extra"),
    [
        ("prometheus_client", "holdfast.adapters.prometheus", "metrics"),
        ("opentelemetry", "holdfast.adapters.opentelemetry", "traces"),
    ],
)
def test_a_missing_extra_is_named_with_its_install_line(
    library: str, adapter: str, extra: str
) -> None:
    """Issue 7: telemetry is optional; without its library the adapter says what to install."""
    arguments = [sys.executable, "-c", PROGRAM, library, adapter]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert f"pip install 'holdfast[{extra}]'" in done.stdout


def test_holdfast_itself_imports_neither() -> None:
    """Issue 7: no vendor in the core, and nothing to pay for who does not measure."""
    program = (
        "import sys, holdfast\n"
        "print([name for name in sys.modules if name.startswith(('prometheus', 'opentelemetry'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
