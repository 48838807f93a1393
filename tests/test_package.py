"""What is installed: the same files, whichever way a wheel was made."""

import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"


def wheel_of(root: Path, folder: Path) -> dict[str, bytes]:
    """Return the files of the wheel that is made of a source tree, without its own list of them."""
    (path,) = WheelBuilder(str(root)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(path) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist() if "RECORD" not in name}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The wheel of this tree."""
    return wheel_of(ROOT, tmp_path_factory.mktemp("wheel"))


def test_a_wheel_holds_every_file_of_the_package(wheel: dict[str, bytes]) -> None:
    """Section 8 test 12: code, SQL, dashboards, the mark of types; nothing else."""
    there = {
        str(path.relative_to(SOURCE)): path.read_bytes()
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name: held for name, held in wheel.items() if ".dist-info/" not in name} == there
    kinds = {Path(name).suffix for name in there}
    assert kinds >= {".py", ".sql", ".json", ".yaml", ".typed"}


def test_a_wheel_by_way_of_a_source_archive_is_the_same(
    wheel: dict[str, bytes], tmp_path: Path
) -> None:
    """Section 8 test 12: whoever builds from the archive has what others have."""
    (archive,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path))
    with tarfile.open(archive) as tarred:
        # Before 3.11.4 it was unknown, and nobody else made this archive.
        tarred.extraction_filter = getattr(tarfile, "data_filter", None)
        tarred.extractall(tmp_path / "unpacked")
    (root,) = (tmp_path / "unpacked").iterdir()
    assert wheel_of(root, tmp_path / "again") == wheel


def test_a_wheel_brings_the_command(wheel: dict[str, bytes]) -> None:
    """`pip install` of it makes `holdfast` a command."""
    (entries,) = (held for name, held in wheel.items() if name.endswith("entry_points.txt"))
    assert b"holdfast = " in entries
