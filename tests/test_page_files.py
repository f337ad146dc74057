"""The files of the page: no markup is made from text, and nothing is loaded from elsewhere."""

import re
from importlib.resources import files
from pathlib import PurePath

import pytest

STATIC = {
    each.name: each.read_text(encoding="utf-8") for each in files("batcher.reviewing").joinpath("static").iterdir()
}
SCRIPTS = {name: text for name, text in STATIC.items() if name.endswith(".js")}
SVG = "http://www.w3.org/2000/svg"

FORBIDDEN = {
    "makes markup from text": r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment",
    "runs text": r"\beval\b|new Function|set(?:Timeout|Interval)\(\s*[\"'`]|javascript:",
    "has a style attribute": r"<[^>]*\sstyle\s*=|setAttribute\(\s*[\"']style|<style\b",
    "names another host": r"https?://|(?<![:\w])//[a-z]",
    "keeps something beyond the tab": r"localStorage|indexedDB|document\.cookie",
}


def without_comments(name: str, text: str) -> str:
    """Return a file without lines of comments, in which words such as `//` mean something else."""
    return (
        re.sub(r"^\s*(?://|\*|/\*).*$|\s//\s.*$", "", text, flags=re.MULTILINE)
        if name.endswith((".js", ".css"))
        else text
    )


@pytest.mark.parametrize("fault", FORBIDDEN)
def test_no_file_of_the_page(fault: str) -> None:
    found = [
        f"{name}: {hit[0]}"
        for name, text in STATIC.items()
        for hit in re.finditer(FORBIDDEN[fault], without_comments(name, text).replace(SVG, ""))
    ]
    assert not found, f"a file of the page {fault}: {found}"


def test_the_rules_find_what_they_forbid() -> None:
    bad = '<b style="x"><script src="https://x/y.js">el.innerHTML = eval("1"); localStorage.x'
    assert all(re.search(rule, bad) for rule in FORBIDDEN.values())


def test_the_page_has_no_script_or_handler_of_its_own() -> None:
    page = STATIC["index.html"]
    assert re.findall(r"<script[^>]*>(.*?)</script>", page, flags=re.DOTALL) == [""]
    assert not re.search(r"<[^>]*\son[a-z]+\s*=", page)


def test_what_the_page_links_is_there() -> None:
    linked = re.findall(r'(?:src|href)="static/([^"]+)"', STATIC["index.html"])
    assert linked
    imported = [name for text in SCRIPTS.values() for name in re.findall(r'from "\./([^"]+)"', text)]
    assert {*linked, *imported} <= {*STATIC}


def test_each_file_is_used() -> None:
    used = "".join(text for name, text in STATIC.items() if name.endswith((".js", ".html")))
    assert [name for name in STATIC if name != "index.html" and f"/{name}" not in used] == []


def test_each_element_that_a_script_asks_for_is_in_the_page() -> None:
    ids = re.findall(r'\bid="([^"]+)"', STATIC["index.html"])
    assert len(ids) == len({*ids})
    asked = {found for text in SCRIPTS.values() for found in re.findall(r'byId\("([\w-]+)"\)', text)}
    assert asked <= {*ids}


def test_each_module_says_its_role_and_its_invariant() -> None:
    for name, text in STATIC.items():
        if PurePath(name).suffix in {".js", ".css"}:
            head = "\n".join(text.splitlines()[:8])
            assert re.match(r"(//|/\*) [A-Z]", text), name
            assert "Invariant: " in head, name


def test_letters_are_sized_in_rem() -> None:
    sizes = [
        size
        for name, text in STATIC.items()
        if name.endswith(".css")
        for size in re.findall(r"font(?:-size)?:([^;]+);", text)
    ]
    assert not [size for size in sizes if re.search(r"\d(?:px|pt)", size)]
