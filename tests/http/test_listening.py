"""Where a service listens, and the file of its token: made by one of many, for its owner alone."""

import asyncio
import logging
import socket
from pathlib import Path

import pytest

from holdfast.core.errors import InvalidValueError
from holdfast.http.listening import bound_at, check_exposure, is_loopback, token_of

ROUNDS, AT_ONCE = 40, 8


def test_of_many_who_make_the_file_at_once_all_have_the_same_token(tmp_path: Path) -> None:
    """Section 7 point 2. Services that begin together; nothing but the file is left."""

    async def run() -> None:
        for number in range(ROUNDS):
            folder = tmp_path / str(number)
            folder.mkdir()
            file = folder / "token"
            found = await asyncio.gather(
                *(asyncio.to_thread(token_of, file) for _ in range(AT_ONCE))
            )
            assert set(found) == {file.read_text().strip()}
            assert [one.name for one in folder.iterdir()] == ["token"]

    asyncio.run(run())


def test_a_token_that_others_may_read_is_said_and_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Section 7 point 17. With the fix in the log, and not the token."""
    file = tmp_path / "token"
    file.write_text("a token of the test\n")
    for mode, warned in ((0o600, False), (0o640, True), (0o604, True)):
        file.chmod(mode)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert token_of(file) == "a token of the test"
        assert ("chmod 600" in caplog.text) == warned
        assert "a token of the test" not in caplog.text


def test_a_link_in_the_way_of_a_socket_stays_where_it_leads(tmp_path: Path) -> None:
    """Section 7 point 1. A link is no socket that a dead process left, also if it leads nowhere."""
    link = tmp_path / "http.sock"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidValueError, match="is there and no socket"):
        bound_at(link)
    assert link.is_symlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "elsewhere"))
    with pytest.raises(InvalidValueError, match="is there and no socket"):
        bound_at(link)
    assert (tmp_path / "elsewhere").is_socket()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("LocalHost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_without_a_token_no_address_will_do(host: str, loopback: bool) -> None:
    """Section 7 points 1 and 2. What others reach is named as such; a token opens each."""
    assert is_loopback(host) == loopback
    check_exposure(host, has_token=True)
    with pytest.raises(InvalidValueError, match="--token-file") as refused:
        check_exposure(host, has_token=False)
    assert ("which others can reach" in str(refused.value)) == (not loopback)
