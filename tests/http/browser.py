"""
A real browser, driven through its driver by the protocol of the W3C; no library in between.

Headless Chromium and its driver come from the system. Where they are missing and this process may
install packages, it does; else a test is skipped with the reason at home, and fails in CI.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pytest

from tests.http.service import free_port

PACKAGES = ["chromium", "chromium-driver"]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
]
PATIENCE = 60.0


def need_browser() -> None:
    """Have a browser, or say why there is none."""
    # One worker at a time: the system's packages know but one who installs.
    with Path(tempfile.gettempdir(), "holdfast-browser.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _have_browser()


def _have_browser() -> None:
    if shutil.which("chromedriver"):
        return
    reason = "chromedriver is not installed"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends"]):
            more = PACKAGES if command[0] == "install" else []
            done = subprocess.run(
                ["apt-get", *command, *more], capture_output=True, text=True, check=False
            )
            reason = f"apt-get {command[0]}: {done.stderr[-200:]}"
    if shutil.which("chromedriver"):
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI is set, and there is no browser: {reason}", pytrace=False)
    pytest.skip(f"there is no browser: {reason}")


class Browser:
    """One browser with an empty profile; leaving its block ends it."""

    def __init__(self) -> None:
        """Start the driver, which starts the browser."""
        self._folder = Path(tempfile.mkdtemp(prefix="hf-browser-"))
        port = free_port()
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)
        self._wait_driver()
        options = {"args": [*FLAGS, f"--user-data-dir={self._folder}"]}
        asked = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self._session = f"/session/{self._ask('POST', '/session', asked)['sessionId']}"

    def go(self, address: str) -> None:
        """Open a page in the tab that is in front."""
        self._ask("POST", f"{self._session}/url", {"url": address})

    def run(self, script: str, *args: Any) -> Any:
        """Run a script in the page; return what it returns."""
        asked = {"script": script, "args": list(args)}
        return self._ask("POST", f"{self._session}/execute/sync", asked)

    def run_async(self, script: str, *args: Any) -> Any:
        """Run a script that calls its last argument with what it returns."""
        asked = {"script": script, "args": list(args)}
        return self._ask("POST", f"{self._session}/execute/async", asked)

    def tab(self) -> str:
        """Open another tab, and put it in front; return its handle."""
        made = self._ask("POST", f"{self._session}/window/new", {"type": "tab"})
        self.front(made["handle"])
        return str(made["handle"])

    def front(self, handle: str) -> None:
        """Put a tab in front."""
        self._ask("POST", f"{self._session}/window", {"handle": handle})

    def handle(self) -> str:
        """Return the handle of the tab in front."""
        return str(self._ask("GET", f"{self._session}/window"))

    def __enter__(self) -> "Browser":
        """Return it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the browser, then its driver."""
        with suppress(httpx.HTTPError, AssertionError):
            self._ask("DELETE", self._session)
        self._http.close()
        self._driver.terminate()
        self._driver.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait_driver(self) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with suppress(httpx.TransportError):
                if self._http.get("/status").json()["value"]["ready"]:
                    return
            time.sleep(0.05)
        raise AssertionError("the driver did not start")

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, path, json=body if method == "POST" else None)
        value = answer.json()["value"]
        assert answer.status_code == 200, value
        return value
