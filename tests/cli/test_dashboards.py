"""`holdfast dashboards export`: what ships, in a folder of one's own, and nothing overwritten."""

import json
from pathlib import Path

from holdfast.cli.dashboards import shipped
from tests.cli.invocation import documents, invoke


def test_everything_that_ships_is_written_once(tmp_path: Path) -> None:
    """Issue 7: data on stdout, words on stderr; a second time there is nothing to do."""
    folder = tmp_path / "new" / "monitoring"
    done = invoke("dashboards", "export", str(folder))
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(shipped())
    assert {"alerts.yaml", "overview.json", "recovery.json", "store.json"} <= set(names)
    assert done.stdout.splitlines() == [str(folder / name) for name in names]
    assert json.loads((folder / "overview.json").read_text())["title"] == "Holdfast: overview"
    again = invoke("dashboards", "export", str(folder), "--json")
    assert [one["written"] for one in documents(again)] == [False] * len(names)


def test_what_somebody_changed_is_kept(tmp_path: Path) -> None:
    """Issue 7: nothing at all is written then, unless it is forced; a dry run writes nothing."""
    (tmp_path / "alerts.yaml").write_text("mine")
    done = invoke("dashboards", "export", str(tmp_path))
    assert (done.returncode, done.stdout) == (4, "")
    assert "alerts.yaml differ" in done.stderr and "--force" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["alerts.yaml"]
    dry = invoke("dashboards", "export", str(tmp_path), "--force", "--dry-run")
    assert dry.returncode == 0 and (tmp_path / "alerts.yaml").read_text() == "mine"
    assert invoke("dashboards", "export", str(tmp_path), "--force").returncode == 0
    assert (tmp_path / "alerts.yaml").read_bytes() == shipped()["alerts.yaml"]


def test_help_shows_an_example() -> None:
    """Issue 7: each command has an example in its help."""
    done = invoke("dashboards", "export", "--help")
    assert "holdfast dashboards export " in done.stdout.split("Example:")[1]
