"""Debian's Chromium, driven by playwright, and axe-core: FRUGALKD_AXE names the file axe.min.js."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; CI must have it")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        missing("there is no chromium (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        # Root, as in containers, has no sandbox.
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def axe_finds(page) -> list[str]:
    """What axe-core calls serious or critical in a page whose policy is bypassed."""
    axe = os.environ.get("FRUGALKD_AXE")
    if not axe:
        missing("FRUGALKD_AXE names no axe.min.js (npm install axe-core)")
    page.evaluate(Path(axe or "").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    assert found["passes"]
    return [v["id"] for v in found["violations"] if v["impact"] in ("serious", "critical")]
