"""
A browser's own `EventSource`, while the service is killed.

A browser opens six connections to one origin over HTTP/1.1, and every `EventSource` holds one: as
many tabs with a stream each leave none for anything else. So a page has one stream per browser:
the tab that holds a lock (Web Locks) reads, and tells the others (BroadcastChannel).
"""

import time

import pytest

from tests.http.browser import Browser, need_browser
from tests.http.service import Service

TABS = 8
KILLS = 3
ANSWERED_MS = 20_000
"""What waits for a connection that streams hold waits for ever; a loaded machine does not."""
FOLLOW = """
const [path] = arguments;
window.seen = []; window.resets = []; window.opened = 0; window.ended = false;
const channel = new BroadcastChannel("events");
channel.onmessage = ({data}) => take(data);
function take(said) {
  if (said.id) window.seen.push(said.id);
  if (said.reset) window.resets.push(said.reset);
  if (said.ended) window.ended = true;
}
function tell(said) { take(said); channel.postMessage(said); }
navigator.locks.request("events", () => new Promise(() => {
  window.leads = true;
  const source = new EventSource(path);
  source.addEventListener("stream.open", () => { window.opened += 1; });
  source.addEventListener("stream.reset", (e) => tell({reset: JSON.parse(e.data).reason}));
  source.addEventListener("stream.end", () => tell({ended: true}));
  for (const name of ["run.started", "run.dispatched", "run.resumed", "run.rescued",
      "step.started", "step.succeeded", "user.counted", "run.cancel_requested",
      "run.cancelled", "run.succeeded", "run.waiting", "run.cancelling"])
    source.addEventListener(name, (e) => tell({id: e.lastEventId}));
  window.source = source;
}));
"""
FETCH = """
const [path, done] = arguments;
const begun = performance.now();
fetch(path).then((r) => r.json()).then((found) => done([performance.now() - begun, found.id]));
"""


@pytest.mark.timeout(240)
def test_a_browser_misses_and_repeats_nothing_while_the_service_is_killed(kept_url: str) -> None:
    """A4, A5; section 8, test 3: eight tabs, one stream, all live, the API answers meanwhile."""
    need_browser()
    with Service(kept_url) as service, Browser() as browser:
        run_id = service.begin("count", 100_000, 0.05, run_id="seen")
        path = f"/v1/runs/{run_id}/events"
        tabs = [browser.handle(), *(browser.tab() for _ in range(TABS - 1))]
        for tab in tabs:
            browser.front(tab)
            browser.go(f"{service.base}/page.html")
            browser.run(FOLLOW, path)
        # A tab hears what comes after it listens, so the stream begins when all do.
        browser.front(tabs[0])
        for _ in range(KILLS):
            _wait_for(browser, "return window.seen.length", 5)
            took, id = browser.run_async(FETCH, f"/v1/runs/{run_id}")
            assert id == run_id and took < ANSWERED_MS
            service.kill()
            service.start()
        _wait_for(browser, "return window.seen.length", 5)
        assert service.post(f"/v1/runs/{run_id}/cancel", {}).status_code in (200, 202)
        assert service.ended(run_id)["status"] == "cancelled"
        expected = [event["id"] for event in service.journal(run_id)]
        leading = 0
        for tab in tabs:
            browser.front(tab)
            _until(browser, "return window.ended")
            seen = browser.run("return window.seen")
            leads = browser.run("return !!window.leads")
            leading += leads
            assert seen == (expected if leads else expected[-len(seen) :])
            assert not browser.run("return window.resets")
            if leads:
                assert browser.run("return window.opened") > KILLS
                # 204 behind the last event: the browser does not come again.
                _until(browser, "return window.source.readyState === EventSource.CLOSED")
        assert leading == 1


def test_a_browser_is_told_that_its_cursor_is_of_another_life(tmp_path: object) -> None:
    """Section 8, test 3, and 2.11: a reset is an event that a page can show."""
    need_browser()
    with Service(f"sqlite:///{tmp_path}/store.db") as service, Browser() as browser:
        run_id = service.begin("count", 5, run_id="seen")
        service.ended(run_id)
        browser.go(f"{service.base}/page.html")
        browser.run(FOLLOW, f"/v1/runs/{run_id}/events?after=9.3")
        _until(browser, "return window.ended")
        assert "another lineage" in browser.run("return window.resets")[0]
        expected = [event["id"] for event in service.journal(run_id)]
        assert browser.run("return window.seen") == expected


def _wait_for(browser: Browser, script: str, more: int) -> None:
    """Wait until a number grew by so much."""
    wanted = browser.run(script) + more
    _until(browser, f"return (() => {{ {script} }})() >= {wanted}")


def _until(browser: Browser, script: str) -> None:
    until = time.monotonic() + 110
    while not browser.run(script):
        assert time.monotonic() < until, script
        time.sleep(0.05)
