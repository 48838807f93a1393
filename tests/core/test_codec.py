"""What the codec promises to threads."""

import subprocess
import sys

THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from threading import Barrier

import msgspec

from holdfast.core import codec

sys.setswitchinterval(1e-6)
start = Barrier(4)
raw = codec.encode({"colour": "red", "more": {}})


def colour_of(shape):
    start.wait()
    return codec.decode_as(raw, shape).colour.value


with ThreadPoolExecutor(4) as pool:
    for _ in range(300):
        colour = StrEnum("Colour", {"RED": "red"})
        shape = msgspec.defstruct("Told", [("colour", colour), ("more", dict[str, colour])])
        assert list(pool.map(colour_of, [shape] * 4)) == ["red"] * 4
"""


def test_a_type_that_nobody_has_met_is_decoded_by_several_threads_at_once() -> None:
    """With msgspec alone, which learns types as it decodes, the process ends by SIGSEGV."""
    ended = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
