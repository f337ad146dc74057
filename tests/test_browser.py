"""What goes wrong on a page fails the test that opened it, and a machine without a browser is told so."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import Visit, check, miss
from playwright.sync_api import Browser

HEAD = '<!DOCTYPE html><html lang="en"><head><title>t</title><meta name="viewport" content="width=device-width"></head>'
WRONG = (
    HEAD
    + """<body><main><h1>t</h1><p style="color: #aaa">pale</p><img src="http://198.51.100.7/x.png" alt="x">
<script src="not_there.js"></script><div style="width: 2000px">wide</div>
<script>console.error("said"); alert("loud"); setTimeout(() => { throw new Error("thrown") })</script></main>"""
)


def test_all_that_goes_wrong_on_a_page_is_told(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(WRONG, encoding="utf-8")
    visit = Visit(chromium)
    page = visit.open(tmp_path / "page.html")
    with pytest.raises(AssertionError, match=r"the page is 2\d\d\d of 1280 wide\n(.*\n)+color-contrast: <p style"):
        check(page)
    with pytest.raises(AssertionError, match=r"console: said"):
        visit.end()
    for trouble in ("to another machine: http://198.51.100.7/x.png", "dialog: loud", "exception: Error: thrown"):
        assert sum(each.startswith(trouble) for each in visit.troubles) == 1
    assert sum(each.startswith("failed: GET ") for each in visit.troubles) == 2


def test_what_a_test_provokes_on_purpose_is_no_trouble(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(HEAD + "<script>console.error('said so')</script>", encoding="utf-8")
    visit.open(tmp_path / "page.html")
    visit.expect("^console: said so$")


def test_without_a_browser_a_test_is_skipped_unless_there_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEED_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        miss()
    monkeypatch.setenv("NEED_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="playwright install chromium"):
        miss()
