"""One source of chance for the tests of this folder, and a way to say what they counted."""

import os
import secrets
from collections.abc import Callable
from random import Random

import pytest

SEED = int(os.environ.get("HOLDFAST_SEED") or secrets.randbelow(2**32))
Tell = Callable[[str], None]


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Add a line to the test's report: shown when it fails, or with `-rA`."""
    return lambda line: request.node.add_report_section("call", "counted", line)


@pytest.fixture
def seed(tell: Tell) -> Random:
    """The only source of chance; its seed is in the report."""
    tell(f"seed {SEED}; replay with HOLDFAST_SEED={SEED}")
    return Random(SEED)
