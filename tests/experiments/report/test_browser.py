"""The page in a browser: Debian's Chromium, driven by playwright, and axe-core for who reads it
otherwise.

FRUGALKD_SHOTS names a folder for screenshots, FRUGALKD_AXE the file axe.min.js.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from made_up import make_arm, make_comparison
from test_hostile import hostile

from browsing import axe_finds, browser
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.report import collect, make_page
from frugalkd.experiments.runs.audit import read_decisions
from frugalkd.experiments.runs.execute import teach
from frugalkd.ledger.audit import ranked
from frugalkd.ledger.ledger import Ledger
from frugalkd.runtime.imports import Allowed

pytestmark = pytest.mark.heavy

playwright = pytest.importorskip("playwright.sync_api")

__all__ = ["browser"]  # a fixture

STRANGE = "test_gallery:strange"

SIZES = [1280, 390]
THEMES = ["light", "dark"]


NOISY = {"data.train_size": 200, "data.noise": {"rate": 0.3}, "teacher.training.epochs": 4}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page with several budgets, one of hostile names, one of strange texts."""
    folder = tmp_path_factory.mktemp("pages")
    arms = [make_arm("vanilla", 0.903, mode="vanilla")]
    for at in (0.1, 0.25, 0.5):
        mine = {"budget_asked": at, "mode": "regulated"}
        arms.append(make_arm(f"regulated@{at}", 0.88 + 0.04 * at, at, 1.2 * at, **mine))
        arms.append(make_arm(f"random@{at}", 0.86 + 0.04 * at, at, budget_asked=at))
    texts = make_comparison(recipe={**make_comparison()["recipe"], "data": {"path": STRANGE}})
    contents = {"several": make_comparison(arms), "hostile": hostile(), "texts": texts}
    made = {}
    for name, content in contents.items():
        source, made[name] = folder / f"{name}.json", folder / f"{name}.html"
        source.write_text(json.dumps(content))
        made[name].write_text(
            make_page(collect(source), Allowed([STRANGE], data=True)), encoding="utf-8"
        )
    return made


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A run on noisy labels, and its page, with labels to review."""
    folder = tmp_path_factory.mktemp("noisy")
    teach(override(load_recipe("digits"), NOISY), folder / "t")
    html = make_page(collect(folder / "t"), Allowed(data=True))
    (folder / "page.html").write_text(html, encoding="utf-8")
    return folder


@pytest.fixture
def opened(browser, request):
    """``opened(file, width, theme)``: a page whose plots are drawn; at the end it must have neither
    said anything to the console nor requested anything."""
    said: list[str] = []

    def open_page(file: Path, width: int = 1280, theme: str = "light", **context):
        made = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, **context
        )
        request.addfinalizer(made.close)
        page = made.new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        page.on("request", lambda it: said.append(it.url) if it.url.startswith("http") else None)
        page.goto(file.as_uri())
        if context.get("java_script_enabled", True):
            page.wait_for_selector("html[data-drawn]")
        return page

    yield open_page
    assert said == []


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("name", ["several", "hostile"])
def test_every_theme_and_width(opened, pages, name, width, theme):
    page = opened(pages[name], width, theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.get_attribute("html", "data-drawn") == "7"
    shots = os.environ.get("FRUGALKD_SHOTS")
    if shots:
        page.screenshot(path=f"{shots}/{name}-{theme}-{width}.png", full_page=True)


def test_plots_have_their_points(opened, pages):
    page = opened(pages["several"])
    plot = '[data-figure="frontier-budget"] '
    assert page.locator(f"{plot}.scatterlayer .points path").count() == 7
    assert page.locator(f"{plot}.yerror").count() == 7
    assert page.locator('[data-figure="participation"] .js-line').count() >= 3
    assert page.locator('[data-figure="classes"] .bars .point').count() == 2
    figure = page.locator("#figure-frontier-budget")
    chip = figure.get_by_role("button", name="random", exact=True)
    assert chip.get_attribute("aria-pressed") == "true"
    chip.press("Enter")
    assert chip.get_attribute("aria-pressed") == "false"
    points = page.locator("[data-figure=frontier-budget] .points path")
    playwright.expect(points).to_have_count(4)


def test_texts_keep_their_direction_and_run_nothing(opened, pages):
    page = opened(pages["texts"], 390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shown = page.locator("#samples blockquote")
    assert shown.count() == 6
    assert shown.nth(0).inner_text() == "<script>alert(1)</script>"
    direction = "it => getComputedStyle(it).direction"
    ways = [it.evaluate(direction) for it in shown.all()]
    assert ways == ["ltr", "ltr", "rtl", "ltr", "ltr", "ltr"]
    widths = [it.bounding_box()["width"] for it in shown.all()]  # pyright: ignore
    assert max(widths) <= 390


def column(page, place):
    return page.locator(f"#table-arms tbody td:nth-child({place})").all_inner_texts()


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_sorting(opened, pages, by):
    page = opened(pages["several"])
    heading = page.locator("#table-arms th", has_text="accuracy %")
    button = heading.get_by_role("button")

    def act():
        if by == "mouse":
            button.click()
        else:
            button.focus()
            page.keyboard.press("Space")

    assert heading.get_attribute("aria-sort") == "none"
    act()
    assert heading.get_attribute("aria-sort") == "descending"
    values = [float(text.split()[0]) for text in column(page, 2)]
    assert values == sorted(values, reverse=True)
    assert page.locator("#status").inner_text() == "Sorted by accuracy %, descending"
    act()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [float(text.split()[0]) for text in column(page, 2)] == sorted(values)
    names = page.locator("#table-arms th").first
    names.get_by_role("button").click()
    assert names.get_attribute("aria-sort") == "ascending"
    assert heading.get_attribute("aria-sort") == "none"
    assert column(page, 1)[0] == "random@0.1"


def test_copying(opened, pages):
    page = opened(pages["several"], permissions=["clipboard-read", "clipboard-write"])
    read = "navigator.clipboard.readText()"
    page.locator("#table-arms").get_by_role("button", name="Copy as Markdown").click()
    # Not wait_for_function: it evaluates text, which the page's policy forbids.
    playwright.expect(page.locator("#status")).to_have_text("Markdown copied")
    lines = page.evaluate(read).splitlines()
    assert lines[0].startswith("| arm | accuracy % | against vanilla |")
    assert lines[1].startswith("| --- | ---: | ---: |")
    assert lines[2].startswith("| vanilla | 90.30 ± 0.20 |")
    page.locator("#table-arms").get_by_role("button", name="Copy as CSV").click()
    # Not wait_for_function: it evaluates text, which the page's policy forbids.
    playwright.expect(page.locator("#status")).to_have_text("CSV copied")
    assert page.evaluate(read).splitlines()[1].endswith(',10,"all, in every epoch"')


def test_copied_names_are_no_formulas(opened, pages):
    page = opened(pages["hostile"], permissions=["clipboard-read", "clipboard-write"])
    page.locator("#table-arms").get_by_role("button", name="Copy as CSV").click()
    # Not wait_for_function: it evaluates text, which the page's policy forbids.
    playwright.expect(page.locator("#status")).to_have_text("CSV copied")
    said = page.evaluate("navigator.clipboard.readText()")
    assert "'=HYPERLINK" in said
    assert not [line for line in said.splitlines() if line.startswith("=")]
    page.locator("#folded-runs > summary").click()
    page.locator("#table-runs").get_by_role("button", name="Copy as CSV").click()
    playwright.expect(page.locator("#status")).to_have_text("CSV copied")
    said = page.evaluate("navigator.clipboard.readText()")
    assert ",'=HYPERLINK" in said
    assert ",=" not in said


def test_a_name_is_no_template_where_one_points(opened, pages):
    page = opened(pages["hostile"])
    shown = page.evaluate("""() => {
        const plot = document.querySelector("[data-figure=participation]");
        const at = plot.data.findIndex(line => line.name === "%{x}");
        Plotly.Fx.hover(plot, [{ curveNumber: at, pointNumber: 1 }]);
        return plot.querySelector(".hovertext").textContent;
    }""")
    assert shown == "%{x}epoch 2: 50.0 %"


def test_the_theme_may_change_while_it_is_read(opened, pages):
    page = opened(pages["several"])
    before = page.locator(".plot .main-svg").first.get_attribute("style")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "before => document.querySelector('.plot .main-svg').getAttribute('style') != before",
        arg=before,
    )


def test_without_javascript_every_number_is_there(opened, pages):
    page = opened(pages["several"], java_script_enabled=False)
    assert page.get_by_text("Plots need JavaScript").is_visible()
    assert page.locator("#table-arms tbody tr").count() == 7
    page.locator("summary").first.click()
    assert page.get_by_text("on the frontier", exact=True).first.is_visible()
    assert page.locator(".plot").first.is_hidden()
    assert page.get_by_role("button").count() == 0


def test_labels_are_reviewed_by_keyboard_and_saved(opened, noisy, tmp_path):
    page = opened(noisy / "page.html", accept_downloads=True)
    ledger = Ledger.load(noisy / "t")
    ids, key = ranked(ledger, 100), page.keyboard.press
    assert page.locator(".suspect").count() == 100
    assert page.locator(".suspect[tabindex='0']").count() == 1, "one stop for the tabulator"
    page.locator(".suspect").first.focus()
    said = page.locator("#status")
    for keys, place, decided in (
        (["x"], 0, "leave out"),
        (["ArrowRight", "r"], 1, f"relabel: {ledger['other'][ids[1]]}"),
        (["ArrowDown", "ArrowDown", "ArrowUp", "k"], 2, "keep"),
        (["End", "ArrowRight", "x", "k"], 99, "keep"),  # the last decision counts
        (["Home"], 0, "leave out"),
    ):
        for each in keys:
            key(each)
        current = page.locator(".suspect:focus")
        assert current.get_attribute("data-id") == str(ids[place])
        assert current.locator(".decision").inner_text() == decided
    assert said.inner_text() == f"Sample {ids[99]}: keep"
    # By mouse and by the list of classes.
    page.locator(".suspect").nth(4).click()
    page.get_by_label("Relabel to another class").select_option("7")
    page.locator(".suspect").nth(5).click()
    page.get_by_role("button", name="Leave out (X)").click()
    assert page.locator(".count").inner_text() == "6 decided"
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save decisions.csv").click()
    assert saved.value.suggested_filename == "decisions.csv"
    saved.value.save_as(tmp_path / "d.csv")
    found = read_decisions(tmp_path / "d.csv", ledger)
    assert found.exclude == {ids[0], ids[5]}
    assert found.relabel == {ids[1]: str(ledger["other"][ids[1]]), ids[4]: "7"}
    assert found.data == ledger.about["data"]


def test_keys_do_nothing_to_labels_elsewhere(opened, noisy):
    page = opened(noisy / "page.html")
    page.locator(".suspect").first.focus()
    page.keyboard.press("Control+k")
    page.get_by_label("Relabel to another class").focus()
    page.keyboard.press("x")
    page.get_by_role("button", name="Save decisions.csv").focus()
    page.keyboard.press("x")
    assert page.locator(".count").inner_text() == "0 decided"


@pytest.mark.parametrize("width", SIZES)
def test_labels_to_review_fit_and_axe_finds_nothing_serious(opened, noisy, width):
    page = opened(noisy / "page.html", width, THEMES[width == SIZES[0]], bypass_csp=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".suspect").first.focus()
    page.keyboard.press("x")
    assert axe_finds(page) == []
    if shots := os.environ.get("FRUGALKD_SHOTS"):
        page.locator("#labels").screenshot(path=f"{shots}/labels-{width}.png")


@pytest.mark.parametrize(
    ("name", "width", "theme"),
    [
        *(("several", width, theme) for width in SIZES for theme in THEMES),
        ("texts", 390, "dark"),
        ("texts", 1280, "light"),
    ],
)
def test_axe_finds_nothing_serious(opened, pages, name, width, theme):
    page = opened(pages[name], width, theme, bypass_csp=True)
    for details in page.locator("details").all():
        details.evaluate("it => { it.open = true }")
    assert axe_finds(page) == []
