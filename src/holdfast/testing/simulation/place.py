"""Where the stores of a simulation lie: in memory, each a copy of one that was made once."""

import tempfile
from functools import lru_cache
from pathlib import Path

from holdfast.core.errors import HoldfastError
from holdfast.core.world import World
from holdfast.runtime.runtime import Options
from holdfast.store.sqlite.driver import SqliteDriver
from holdfast.testing.disk.acts import read_image
from holdfast.testing.disk.images import write_image
from holdfast.testing.simulation.virtual import BrokenError

__all__ = ["fresh_store", "memory"]


def fresh_store(folder: Path) -> Path:
    """Return the path of an empty store: a copy of a template, because migrating takes longer."""
    template = folder / "template"
    if not template.exists():
        template.mkdir()
        driver = SqliteDriver(template / "a.db", Options(), World())
        try:
            driver.open()
        except HoldfastError as error:
            raise BrokenError("no store can be made here") from error
        finally:
            driver.close()
    place = Path(tempfile.mkdtemp(dir=folder))
    write_image(_template(template), place)
    return place / "a.db"


@lru_cache(maxsize=1)
def _template(folder: Path) -> dict[str, bytes]:
    # Nobody fills the disk here, so the ballast need not have its size.
    image = read_image(folder)
    return {name: data[:64] if name.endswith("/ballast") else data for name, data in image.items()}


def memory() -> str | None:
    """Return a folder in memory, or None where there is none."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
