"""
Images that were not as promised, kept as files and judged again.

    path = keep(evidence, Path("build/failed"))
    wrong = judge(read(path))

A power cut that finds a failure leaves the image itself, with what had been promised of it, so
that it can be looked at and is judged at every later run. An image whose fault lies in what was
written before the cut stays bad for ever; one that was only recovered wrongly is sound as soon
as the recovery is right, and is worth keeping.
"""

from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

import msgspec
import zstandard

from holdfast.core.errors import (
    DamagedError,
    HoldfastError,
    MigrationChangedError,
    StoreRefusedError,
)
from holdfast.store.port import Driver
from holdfast.testing.disk.images import Image, Scratch, images
from holdfast.testing.disk.power import (
    NESTED_BREADTH,
    Evidence,
    connector,
    cuts_during_recovery,
    wrong_with,
)
from holdfast.testing.judge import examine

__all__ = ["SUFFIX", "judge", "keep", "read"]

SUFFIX = ".image"
_LEVEL = 19
_BYTES_MAX = 64 << 20


def keep(evidence: Evidence, folder: Path) -> Path:
    """Write evidence into a folder, under a name that follows from it; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    data = msgspec.msgpack.encode(evidence)
    path = folder / f"{blake2b(data, digest_size=6).hexdigest()}{SUFFIX}"
    path.write_bytes(zstandard.ZstdCompressor(level=_LEVEL).compress(data))
    return path


def read(path: Path) -> Evidence:
    """Read evidence from a file."""
    data = zstandard.ZstdDecompressor().decompress(path.read_bytes(), max_output_size=_BYTES_MAX)
    return msgspec.msgpack.decode(data, type=Evidence)


def judge(evidence: Evidence) -> str:
    """Open the image with Holdfast as it is now, and return what is wrong; empty if nothing."""
    with Scratch() as scratch:
        for files in (evidence.files, *(_cut_again(evidence) if evidence.again else ())):
            folder = scratch.lay(files)
            connect = connector(evidence.case, evidence.seed, folder, "judge")
            if wrong := _judge(evidence, connect):
                return wrong
    return ""


def _cut_again(evidence: Evidence) -> Iterator[Image]:
    with Scratch() as inner:
        for cut in cuts_during_recovery(evidence.case, evidence.seed, evidence.files, inner):
            for image in images(cut, evidence.seed, NESTED_BREADTH):
                yield image.files


def _judge(evidence: Evidence, connect: Callable[[], Driver]) -> str:
    if evidence.expected == "sound":
        found = examine(connect)
        return wrong_with(found, evidence.allowed, evidence.store_id, evidence.epoch)
    driver = connect()
    try:
        driver.open()
        noticed = evidence.expected == "named" and any(driver.verify())
    except (StoreRefusedError, DamagedError, MigrationChangedError) as error:
        noticed = evidence.expected == "named" or isinstance(error, StoreRefusedError)
    except HoldfastError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        driver.close()
    return "" if noticed else f"it was opened, and not {evidence.expected}"
