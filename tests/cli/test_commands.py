"""
The commands that look at a store: what goes to stdout, what to stderr, and how they end.

Every command runs as a process of its own, on SQLite and on PostgreSQL.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

import holdfast
from holdfast.core import errors
from holdfast.core.exits import Exit, exit_of, exit_of_check
from holdfast.core.refusal import NotReadyError, RunCancelledError, RunFailedError
from tests.cli.invocation import HOLDFAST, SECRET, documents, fill, invoke, run

COMMANDS = (
    "demo",
    "verify",
    "streams",
    "events",
    "info",
    "migrate",
    "export",
    "import",
    "restore",
    "doctor",
    "gc",
    "query",
)


def damage(url: str) -> None:
    """Flip a byte in the payload of event 2 of chat/user-42, behind the store's back."""
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        content = bytearray(path.read_bytes())
        at = content.index(b"\xa6number\x01") + 7
        content[at] = 9
        path.write_bytes(content)
        return
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE holdfast.event DISABLE TRIGGER ALL")
        changed = connection.execute(
            "UPDATE holdfast.event SET payload = set_byte(payload, 8, 9) "
            "WHERE sequence = 2 AND type = 'turn_added'"
        )
        assert changed.rowcount == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_and_the_exit_codes(command: str) -> None:
    """Nobody has to look the words up elsewhere."""
    done = invoke(command, "--help")
    assert done.returncode == 0
    assert f"holdfast {command} " in done.stdout.split("Example:")[1]
    assert "Exit codes: 0 done" in done.stdout


def test_verify_ends_with_0_if_all_is_well(store: str) -> None:
    """X13: a sound store has no findings, and stdout stays empty."""
    done = invoke("verify", store)
    assert (done.returncode, done.stdout) == (0, "")
    assert "all well" in done.stderr


def test_verify_names_stream_and_sequence_of_damage_and_ends_with_9(store: str) -> None:
    """X3, X13, X12: damage is named exactly, its content is not shown."""
    damage(store)
    done = invoke("verify", store, "--json")
    assert done.returncode == 9, done.stderr
    (finding,) = documents(done)
    assert (finding["name"], finding["sequence"]) == ("chat/user-42", 2)
    table = invoke("verify", store=store)
    assert table.returncode == 9
    assert "chat/user-42" in table.stdout
    assert SECRET not in done.stdout + done.stderr + table.stdout + table.stderr


def test_verify_of_a_file_that_was_cut_ends_with_9(tmp_path: Path) -> None:
    """X13: a store that is refused because of damage is damage found."""
    path = tmp_path / "store.db"
    run(fill(f"sqlite:///{path}"))
    os.truncate(path, 100)
    done = invoke("verify", f"sqlite:///{path}")
    assert done.returncode == 9
    assert "a copy is in" in done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("sqlite:///{}/no.db", 10),
        ("sqlite:///{}/no/folder.db", 10),
        ("postgresql:///x?host={}", 13),
    ],
)
def test_verify_of_nothing_makes_nothing_and_says_so(words: str, code: int, tmp_path: Path) -> None:
    """X13: no store, or none that could be checked, is neither damaged nor sound."""
    done = invoke("verify", words.format(tmp_path))
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("holdfast: ")
    assert not list(tmp_path.iterdir())


def test_verify_of_an_empty_database_ends_with_10(empty: str) -> None:
    """A server without a store, or no file: nothing was checked."""
    assert invoke("verify", empty).returncode == 10


def test_streams_are_listed_by_name_and_page_by_page(store: str) -> None:
    """A listing goes on behind the last name it showed."""
    done = invoke("streams", "--store", store, "--prefix", "chat/", "--limit", "1", "--json")
    (first,) = documents(done)
    assert (first["stream"], first["last_sequence"]) == ("chat/user-42", 3)
    assert "--after 'chat/user-42'" in done.stderr
    rest = documents(invoke("streams", "--after", "chat/user-42", "--json", store=store))
    assert [stream["stream"] for stream in rest] == ["chat/zoe", "turns/1"]
    assert "chat/zoe" in invoke("streams", store=store).stdout


def test_events_are_data_on_stdout_one_document_a_line(store: str) -> None:
    """What is printed can be piped on."""
    words = ["events", "chat/user-42", "--store", store, "--after", "1"]
    done = invoke(*words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [event["sequence"] for event in documents(done)] == [2, 3]
    assert documents(done)[0]["data"] == {"number": 1, "text": SECRET}
    assert len(invoke(*words, "--limit", "1").stdout.splitlines()) == 1


def test_a_stream_that_is_not_there_ends_with_3(store: str) -> None:
    """Not found is not an empty stream."""
    done = invoke("events", "chat/nobody", "--store", store)
    assert (done.returncode, done.stdout) == (3, "")


def test_follow_shows_what_another_process_appends(store: str) -> None:
    """Following reads the log and goes on reading it, until Ctrl-C."""
    words = [*HOLDFAST, "events", "chat/zoe", "--store", store, "--follow", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert '"sequence":1' in process.stdout.readline()

        async def append() -> None:
            async with holdfast.open(store) as rt:
                await rt.history("chat/zoe").append("turn_added", {"text": "later"})

        run(append())
        assert '"later"' in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_a_reader_that_goes_away_ends_the_command_quietly(tmp_path: Path) -> None:
    """`holdfast events … | head -1` shows no traceback."""
    store = f"sqlite:///{tmp_path / 'store.db'}"
    run(fill(store, events=2_000))
    words = [*HOLDFAST, "events", "chat/user-42", "--store", store]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_looking_is_no_opening(store: str) -> None:
    """Commands that look leave no trace: the epoch does not grow, info says what it is."""
    first, second = (documents(invoke("info", "--store", store, "--json"))[0] for _ in "12")
    assert first == second
    assert first["epoch"] == 1
    assert first["durability"] == "synced"
    assert len(first["store_id"]) == 32
    assert invoke("info", store=store).stdout.count("\n") > 5


def test_migrate_prints_first_what_it_would_do(empty: str) -> None:
    """With --dry-run nothing is made; without, nothing is left to do."""
    planned = documents(invoke("migrate", "--store", empty, "--dry-run", "--json"))
    assert [step["number"] for step in planned] == list(range(1, len(planned) + 1))
    assert "CREATE TABLE" in invoke("migrate", "--store", empty, "--dry-run").stdout
    assert invoke("verify", empty).returncode == 10
    assert invoke("migrate", "--store", empty).returncode == 0
    assert documents(invoke("migrate", "--store", empty, "--dry-run", "--json")) == []
    assert invoke("verify", empty).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ["events", "s"],
        ["streams", "--limit", "0", "--store", "sqlite:///x.db"],
        ["streams", "--store", "mysql://x"],
        ["nothing"],
        ["import", "/no/such/file", "--store", "sqlite:///x.db"],
    ],
)
def test_wrong_words_end_with_2(words: list[str]) -> None:
    """Usage is told apart from everything that concerns a store."""
    done = invoke(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


@pytest.mark.parametrize(
    ("typed", "offered"), [("holdfast ru", "run"), ("holdfast run re", "resume retry")]
)
def test_a_shell_completes_words(typed: str, offered: str) -> None:
    """Commands and verbs, in a real bash that took what `--show-completion` prints."""
    script = """
        eval "$(_HOLDFAST_COMPLETE=source_bash holdfast)"
        COMP_WORDS=($0) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _holdfast_completion holdfast
        echo "${COMPREPLY[@]}"
    """
    found = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script, typed],
        env={**os.environ, "PATH": found},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == offered.split(), done.stderr


def test_names_from_a_store_never_steer_a_terminal(tmp_path: Path) -> None:
    """X6: a stream may have any name, and showing it does nothing but show it."""
    store, name = f"sqlite:///{tmp_path / 'store.db'}", "a\x1b]0;owned\x07[red]\n\u202eb"
    run(fill(store, stream=name))
    for words in (["streams"], ["events", name]):
        done = invoke(*words, "--store", store)
        assert done.returncode == 0
        assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout + done.stderr)
    assert "\\x1b]0;owned\\x07[red]\\n\\u202eb" in invoke("streams", "--store", store).stdout


def test_a_password_in_a_url_is_not_shown(postgres_url: str) -> None:
    """X12: what is printed may be pasted into a ticket."""
    run(fill(postgres_url))
    url = f"{postgres_url}&password=hunter2".replace(":///", "://user:hunter2@/")
    for words in (["verify", url], ["info", "--store", url], ["verify", url + "&schema=none"]):
        done = invoke(*words)
        assert "hunter2" not in done.stdout + done.stderr, done.stderr


def test_a_fault_shows_frames_but_no_values(tmp_path: Path) -> None:
    """X12: an unexpected exception may quote what it read, so its text is not shown."""
    program = f"""
import holdfast.cli.upkeep, holdfast.cli.inspection
async def fail(*words, **more):
    raise RuntimeError({SECRET!r})
holdfast.cli.inspection.show_info = fail
from holdfast.cli.app import run
raise SystemExit(run(["info", "--store", "sqlite:///x.db"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "RuntimeError" in done.stderr
    assert "in fail" in done.stderr
    assert SECRET not in done.stderr.replace(program, "")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_extra_is_said_with_the_words_that_install_it(missing: str) -> None:
    """The library works without the command line's packages."""
    program = f"""
import sys
sys.modules[{missing!r}] = None
from holdfast.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 5
    assert "pip install 'holdfast[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_family_of_errors_has_its_exit_code() -> None:
    """Damage found and could not check are never mixed up."""
    refused = errors.StoreRefusedError(store="s", reason="r")
    judged = errors.StoreRefusedError(store="s", reason="r", report="a copy is in kept")
    found = {
        errors.DamagedError(what="stream", name="s", reason="r"): 9,
        errors.DamagedFileError(file="f", line=1, reason="r"): 9,
        judged: 9,
        refused: 5,
        errors.StoreUnavailableError(reason="r"): 5,
        errors.StoreFullError(reason="r"): 5,
        errors.StoreBusyError(waited=1.0): 11,
        errors.StoreNotFoundError(store="s"): 10,
        errors.SchemaNewerError(store="s", found=2, known=1): 14,
        errors.UnexpectedError(reason="r"): 1,
        errors.DecodeError(what="w", reason="r"): 13,
        errors.SequenceConflictError(stream="s", expected=0, actual=1): 4,
        errors.StaleGenerationError(key="k", generation=1, actual=2): 4,
        errors.StreamNotFoundError(stream="s"): 3,
        errors.TooOldError(stream="s", after=0, first_sequence=2): 3,
        errors.InvalidValueError(what="w", reason="r"): 2,
        NotReadyError(phase="opening"): 5,
        RunFailedError(run_id="r", type="t", message="m"): 6,
        RunCancelledError(run_id="r", reason="r", by="b"): 7,
    }
    assert {error: exit_of(error) for error in found} == found
    assert {exit_of_check(error) for error in found if found[error] in (5, 11)} == {13}
    assert exit_of_check(judged) is Exit.DAMAGED


def test_the_page_of_the_command_line_lists_every_exit_code() -> None:
    """One table: what the page, the help and the errors say is the same."""
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if re.match(r"\| \d+ \| ", line)]
    assert [(int(code.strip("| ")), meaning) for code, meaning, _ in rows] == [
        (int(one), one.meaning) for one in Exit
    ]
