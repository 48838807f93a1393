"""SQLite without statistics of its memory, which only a whole process can be."""

import subprocess
import sys

import pytest

PROGRAM = """
import apsw, sys
from holdfast.testing.memory import leave_uncounted
if sys.argv[1] == "uncounted":
    leave_uncounted()
connection = apsw.Connection(":memory:")
connection.execute("CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(100000))")
print(connection.execute("SELECT length(x) FROM t").get, apsw.memory_used())
"""


@pytest.mark.parametrize(("how", "counts"), [("counted", True), ("uncounted", False)])
def test_a_process_that_left_it_uncounted_works_and_counts_nothing(how: str, counts: bool) -> None:
    """What the crash lab begins with: SQLite does its work, and says that it uses no memory."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=60
    )
    length, used = done.stdout.split()
    assert length == "100000"
    assert (int(used) > 100_000) == counts
    assert (int(used) == 0) != counts
