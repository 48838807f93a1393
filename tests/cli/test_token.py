"""`holdfast token`: made, listed, revoked; printed once."""

import json
from pathlib import Path

from holdfast.core.exits import Exit
from tests.cli.invocation import invoke


def test_a_token_is_made_listed_and_revoked(tmp_path: Path) -> None:
    """Section 7 point 6. stdout is the token alone; the list never has it."""
    store = ("--store", f"sqlite:///{tmp_path / 'store.db'}")
    made = invoke("token", "create", *store, "--role", "viewer", "--label", "wall", "--days", "1")
    assert made.returncode == Exit.DONE
    text = made.stdout.strip()
    _, id, secret = text.split("_", 2)
    listed = invoke("token", "list", *store, "--json")
    (one,) = [json.loads(line) for line in listed.stdout.splitlines()]
    assert (one["id"], one["role"], one["label"]) == (id, "viewer", "wall")
    assert one["payloads"] is False and one["expires_at"] > one["created_at"]
    assert secret not in listed.stdout + made.stderr
    assert invoke("token", "revoke", id, *store).returncode == Exit.DONE
    assert invoke("token", "list", *store, "--json").stdout == ""
    assert invoke("token", "revoke", id, *store).returncode == Exit.NOT_FOUND
    assert invoke("token", "create", *store, "--role", "king").returncode == Exit.USAGE
