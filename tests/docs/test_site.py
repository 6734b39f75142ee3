"""The documentation site: strict, without dead links, without a network, and accessible."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from mimetypes import guess_type
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from browsing import axe_finds, browser

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
__all__ = ["browser"]  # a fixture


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = ["mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


class Page(HTMLParser):
    """Where a page links to, what it loads, and its anchors."""

    def __init__(self, file: Path):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors = {""}
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given.get("id") or "", given.get("name") or ""}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        elif tag != "a":
            self.loads += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {file: Page(file) for file in site.rglob("*.html")}


def test_no_internal_link_is_dead(pages, site):
    dead = []
    for file, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link) or file.name == "404.html":
                continue
            path, anchor = urldefrag(unquote(link))
            to = (file.parent / path).resolve() if path else file
            if not to.is_file() or (to in pages and anchor not in pages[to].anchors):
                dead.append(f"{file.relative_to(site)}: {link}")
    assert sum(len(page.links) for page in pages.values()) > 500
    assert dead == []


def test_nothing_is_loaded_from_a_network(pages, site):
    loads = [load for page in pages.values() for load in page.loads]
    assert len(loads) > 50
    assert [load for load in loads if re.match(r"(https?:)?//", load)] == []
    sheets = {path.name: path.read_text() for path in site.rglob("*.css")}
    assert [name for name, css in sheets.items() if re.search(r"url\(['\"]?http", css)] == []


def test_each_table_of_a_comparison_has_its_figures(site):
    evidence = (site / "BENCHMARKS.html").read_text(encoding="utf-8")
    for name in ("fair-fashion-mnist", "fashion-mnist-claims", "banking77", "objectives"):
        assert f"<!-- /{name} -->" in (site / "BENCHMARKS.md").read_text(encoding="utf-8")
        for of in ("light", "dark"):
            assert f'src="figures/{name}-{of}.svg#only-{of}"' in evidence
            drawn = (site / "figures" / f"{name}-{of}.svg").read_text(encoding="utf-8")
            assert drawn.startswith("<?xml")
    assert len(list((site / "figures").glob("*-light.svg"))) > 20


def test_llms_txt_lists_the_markdown_of_each_page(site):
    lines = (site / "llms.txt").read_text(encoding="utf-8").splitlines()
    listed = {name for line in lines for name in re.findall(r"^- \[.*\]\((.+)\)$", line)}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= listed
    assert all((site / name).is_file() for name in listed)


@pytest.fixture
def opened(site, browser):
    """``opened(name, width)``: a page as a server gives it, which may request nothing else."""
    context, strange = browser.new_context(), []

    def serve(route):
        host, path = urlsplit(route.request.url)[1:3]
        file = site / unquote(path).lstrip("/")
        if host != "site.test" or not file.is_file():
            strange.append(route.request.url)
            return route.abort()
        route.fulfill(body=file.read_bytes(), content_type=guess_type(file.name)[0])

    def open_page(name: str, width: int = 1280):
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(f"http://site.test/{name}.html")
        return page

    context.route("**/*", serve)
    yield open_page
    context.close()
    assert strange == []


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("index", 1280),
        ("concepts", 390),
        ("signatures", 1280),
        ("commands", 390),
        ("BENCHMARKS", 390),
    ],
)
def test_pages_fit_and_axe_finds_nothing_serious(opened, name, width):
    page = opened(name, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if shots := os.environ.get("FRUGALKD_SHOTS"):
        page.screenshot(path=f"{shots}/site-{name}-{width}.png")
    assert axe_finds(page) == []


def test_search_finds_a_page(opened):
    page = opened("index")
    page.keyboard.press("s")
    page.keyboard.type("hybrid")
    page.wait_for_selector(".md-search-result__item a")
