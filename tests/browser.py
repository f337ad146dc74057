"""A real Chromium for tests, in which everything that goes wrong on a page fails the test.

Invariant: no page of a test reaches another machine, and none is looked at that is not watched.

On a machine without a browser these tests are skipped, and say what to install; with NEED_BROWSER in the environment,
as in `.ci/run`, they fail instead. `python tests/browser.py` prints the path of the browser that they would take, or
exits with 1.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, Request, Response, Route, expect, sync_playwright

expect.set_options(timeout=30_000)  # ends what hangs, not what a busy machine makes slow

WIDE, NARROW = 1280, 390  # pixels: a notebook's window, a telephone
_HEIGHTS = {WIDE: 800, NARROW: 844}

_ON_PATH = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_ELSEWHERE = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
_MISSING = "there is no browser: install Chromium (Debian: apt-get install chromium), or: playwright install chromium"
# The sandbox wants rights that a container does not give. The rest keeps the browser's own errands off the network.
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
_BEYOND = re.compile(r"^(?!(?:http|ws)://(?:127\.0\.0\.1|localhost)[:/]|file:|data:|blob:|about:)")
# The page itself gives up a request when it is left, or when a newer question makes the answer worthless.
_GIVEN_UP = "net::ERR_ABORTED"


def found(own: str = "") -> str:
    """Return the path of a browser, or an empty text.

    Args:
        own: where playwright would have put its own.
    """
    there = (path for name in _ON_PATH if (path := shutil.which(name)))
    return next((path for path in (*there, *_ELSEWHERE, own) if path and Path(path).is_file()), "")


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """Start a browser; without one the test that wants it is skipped, or fails if there must be one."""
    with sync_playwright() as playwright:
        path = found(playwright.chromium.executable_path)
        if not path:
            miss()
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield browser
        browser.close()


def miss() -> NoReturn:
    """Skip the test that wants a browser, or let it fail where there must be one."""
    if os.environ.get("NEED_BROWSER"):
        pytest.fail(_MISSING, pytrace=False)
    pytest.skip(_MISSING)


class Visit:
    """The windows that one test opens, and what goes wrong in them.

    Attributes:
        troubles: errors on the console, exceptions, failed requests and responses, dialogs, requests to other
            machines.
    """

    def __init__(self, browser: Browser) -> None:
        self.troubles: list[str] = []
        self._responses: list[Response] = []
        self._browser = browser
        self._expected: list[re.Pattern[str]] = []
        self._contexts: list[BrowserContext] = []

    def open(
        self, url: str | Path, *, width: int = WIDE, height: int = 0, dark: bool = False, scripts: bool = True
    ) -> Page:
        """Open a page in a window of its own, which shares nothing with others.

        Args:
            url: its address, or the path of its file.
            width: of the window, in pixels; at 390 it is a telephone.
            height: of the window, in pixels.
            dark: whether the user prefers dark colours.
            scripts: whether JavaScript is on.
        """
        context = self._browser.new_context(
            viewport={"width": width, "height": height or _HEIGHTS.get(width, 800)},
            color_scheme="dark" if dark else "light",
            java_script_enabled=scripts,
            is_mobile=width == NARROW,
            has_touch=width == NARROW,
            reduced_motion="reduce",
            locale="en-GB",
        )
        context.set_default_timeout(30_000)
        self._contexts.append(context)
        self._watch(context)
        return self._opened(context, url)

    def beside(self, page: Page, url: str | Path = "") -> Page:
        """Open another tab in the window of a page."""
        return self._opened(page.context, url or page.url)

    def expect(self, trouble: str) -> None:
        """Let a test provoke what matches this regular expression."""
        self._expected.append(re.compile(trouble))

    def answers(self, below: str) -> list[tuple[str, str]]:
        """Return the path of each request below an address so far, and what was answered, a stream left out."""
        found = [each for each in self._responses if each.url.startswith(below)]
        return [
            (each.url.removeprefix(below).partition("?")[0], each.text())
            for each in found
            if "text/event-stream" not in each.headers["content-type"]
        ]

    def close(self) -> None:
        """Close all windows."""
        while self._contexts:
            context = self._contexts.pop()
            for page in context.pages:
                page.title()  # what the browser has said until now arrives before its answer
            context.close()

    def end(self) -> None:
        """Close all windows.

        Raises:
            AssertionError: something went wrong in one of them.
        """
        self.close()
        troubles = [each for each in self.troubles if not any(one.search(each) for one in self._expected)]
        assert not troubles, "\n".join(troubles)

    def _opened(self, context: BrowserContext, url: str | Path) -> Page:
        page = context.new_page()
        page.goto(url.as_uri() if isinstance(url, Path) else url)
        return page

    def _watch(self, context: BrowserContext) -> None:
        context.route(_BEYOND, self._refuse)
        context.on("console", lambda said: self._note(said.type == "error", f"console: {said.text}"))
        context.on("weberror", lambda error: self._note(True, f"exception: {error.error.stack or error.error}"))
        context.on("dialog", self._dismiss)
        context.on("requestfailed", self._fail)
        context.on("response", self._keep)

    def _note(self, is_trouble: bool, text: str) -> None:
        if is_trouble:
            self.troubles.append(text)

    def _refuse(self, route: Route) -> None:
        self.troubles.append(f"to another machine: {route.request.url}")
        route.abort("blockedbyclient")

    def _dismiss(self, dialog: Dialog) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _fail(self, request: Request) -> None:
        self._note(request.failure != _GIVEN_UP, f"failed: {request.method} {request.url}: {request.failure}")

    def _keep(self, response: Response) -> None:
        self._note(response.status >= 400, f"answered {response.status}: {response.request.method} {response.url}")
        self._responses.append(response)


_STICKING_OUT = """() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width && innerWidth <= screen.width) return [];
    const wide = [...document.querySelectorAll("body *")].filter(one => one.getBoundingClientRect().right > width + 1);
    return [`the page is ${document.documentElement.scrollWidth} of ${width} wide`,
            ...wide.map(one => one.outerHTML.slice(0, 120))].slice(0, 8);
}"""


def check(page: Page) -> None:
    """Check a page as it stands: it is accessible, and does not scroll sideways.

    Raises:
        AssertionError: it lists what axe-core objects to, and what sticks out.
    """
    expect(page.locator("[aria-busy=true]")).to_have_count(0)  # what is on its way is dimmed
    sticking_out: list[str] = page.evaluate(_STICKING_OUT)
    objections = [
        f"{rule['id']}: {node['html'][:200]}: {' '.join(node['failureSummary'].split())}"
        for rule in Axe().run(page).response["violations"]
        for node in rule["nodes"]
    ]
    assert not sticking_out + objections, "\n".join([page.url, *sticking_out, *objections])


if __name__ == "__main__":
    with sync_playwright() as started:
        path = found(started.chromium.executable_path)
    sys.exit(_MISSING) if not path else sys.stdout.write(f"{path}\n")
