"""Export and import by the command line against services: the words are those for a store (X13)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.invocation import invoke, run
from tests.cli.test_transfer_runs import begin, look
from tests.cli.test_transfer_sessions import NAME, talk
from tests.http.server import TOKEN
from tests.http.service import Service


@pytest.fixture
def services(postgres_url: str, tmp_path: Path) -> Iterator[tuple[Service, Service]]:
    """A service on SQLite that has a run and a session, and one on PostgreSQL that has nothing."""
    url = f"sqlite:///{tmp_path / 'origin.db'}"
    run(begin(url, answer="yes"))
    run(talk(url))
    (tmp_path / "token").write_text(TOKEN)
    with Service(url) as one, Service(postgres_url) as two:
        yield one, two


@pytest.mark.timeout(120)
def test_a_run_and_a_session_go_from_one_service_to_another(
    services: tuple[Service, Service], tmp_path: Path
) -> None:
    """X13, X15: whole files for the owner alone; the same words and codes as with a store."""
    one, two = services
    file, token = tmp_path / "export", tmp_path / "token"
    out = ("export", "--url", one.base, "--token-file", token, "--output", file)
    into = ("import", file, "--url", two.base, "--token-file", token)
    done = invoke(*out, "--run", "report-7")
    assert (done.returncode, done.stderr) == (
        0,
        f"run report-7: 2 streams, 1 records, 2 blobs are in {file}\n",
    )
    assert file.stat().st_mode & 0o777 == 0o600
    assert "run report-7: 2 streams" in invoke(*into).stderr
    assert "was there already" in invoke(*into).stderr
    cut = file.read_bytes()[:-1]
    file.write_bytes(cut)
    assert invoke(*into).returncode == 9
    absent = invoke(*out, "--run", "nobody")
    assert (absent.returncode, file.read_bytes()) == (3, cut)
    assert invoke(*out, "--session", NAME).returncode == 0
    assert "session Chat/user%2F42/a: 1 streams" in invoke(*into).stderr
    assert run(look(two.url)) == run(look(one.url))


@pytest.mark.timeout(120)
def test_what_a_service_does_not_move_is_said_at_once(
    services: tuple[Service, Service], tmp_path: Path
) -> None:
    """X13: a stream needs its store; a service and a store are two places."""
    one, two = services
    file, token = tmp_path / "export", tmp_path / "token"
    words = ("--token-file", token, "--output", file)
    stream = invoke("export", "chat/zoe", "--url", one.base, *words)
    assert stream.returncode == 2
    assert "a stream needs --store" in stream.stderr
    both = invoke("export", "--run", "x", "--url", one.base, *words, store=one.url)
    assert both.returncode == 2
    assert invoke("export", "run/report-7", "--output", file, store=one.url).returncode == 0
    into = invoke("import", file, "--url", two.base, "--token-file", token)
    assert into.returncode == 2
    assert "a service takes in runs and sessions only" in into.stderr
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    refused = invoke("import", file, "--url", two.base, "--token-file", wrong)
    assert refused.returncode != 0
