"""
Images that failed once, judged again with Holdfast as it is.

Each file in `corpus/` is an image that a bug of the track record in `docs/durability.md` got
wrong, with what had been promised of it. To keep a new one, move it here from `build/failed/`.
"""

from pathlib import Path

import pytest

from holdfast.store.sqlite.guard import Guard
from holdfast.testing.disk import evidence
from holdfast.testing.disk.images import Breadth
from holdfast.testing.disk.power import PowerLoss
from holdfast.testing.faults import planted
from tests.lab.layers.power import FAILED, of_power

pytestmark = pytest.mark.lab

CORPUS = Path(__file__).parent / "corpus"
IMAGES = sorted(CORPUS.glob(f"*{evidence.SUFFIX}"))
BYTES_MAX = 500_000


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_what_failed_once_does_not_fail_again(path: Path) -> None:
    """F3 to F5, F10 to F12, C6."""
    kept = evidence.read(path)
    assert not evidence.judge(kept), kept.replay


def test_the_corpus_stays_small() -> None:
    """It is read at every run, and lies in every clone."""
    assert IMAGES
    assert sum(path.stat().st_size for path in IMAGES) < BYTES_MAX


def test_a_failure_of_a_power_cut_is_kept_and_judged_bad_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X9. The image, what was promised and the command that repeats it are in one file."""
    monkeypatch.chdir(tmp_path)
    with planted("synchronous-normal"):
        layer = PowerLoss(4_711, "blocks", Breadth(prefixes=1, sectors=1, mixtures=2))
    layer.survey(enough=1)
    (failure,) = of_power(layer).failures
    (path,) = (tmp_path / FAILED).iterdir()
    kept = evidence.read(path)
    assert str(path.relative_to(tmp_path)) in failure
    assert kept.replay in failure
    assert evidence.judge(kept)


@pytest.mark.parametrize("stem", ["half-made-refused", "first-page-torn-refused"])
def test_an_image_is_judged_bad_while_its_bug_is_there(
    stem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: two of the old mistakes of the guard."""
    kept = evidence.read(CORPUS / f"{stem}{evidence.SUFFIX}")
    monkeypatch.setattr(Guard, "_is_half_made", lambda _: False)
    monkeypatch.setattr(Guard, "_look_at_log", lambda *_: frozenset[int]())
    assert "does not begin as an SQLite database" in evidence.judge(kept)
