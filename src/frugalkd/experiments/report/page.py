"""A page from plain data: one HTML file that needs no other, and no network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from functools import cache, partial
from importlib.resources import files
from typing import Any

import frugalkd
from frugalkd.errors import ReportError
from frugalkd.experiments.report.blocks import Figure, Page, in_a_terminal
from frugalkd.experiments.report.gallery import NOTHING, pictures_of
from frugalkd.experiments.report.headline import headline, run_headline
from frugalkd.experiments.report.sections import comparison_page, run_page
from frugalkd.experiments.runs.schema import Comparison, RunRecord
from frugalkd.runtime.imports import Allowed, require_extra

LARGEST = 4_000_000
"""Bytes of a page."""


def make_page(
    content: Comparison | RunRecord, allowed: Allowed = NOTHING, *, watched: bool = False
) -> str:
    """The page of a comparison or of a run, as HTML.

    Args:
        content: what :func:`frugalkd.experiments.report.collect` found.
        allowed: what the gallery may read, fetch and import.
        watched: the page polls the server that it comes from for changes
            (:mod:`frugalkd.experiments.report.watch`).

    Raises:
        ReportError: it would be larger than ``LARGEST`` bytes, or the extra ``report`` is not
            installed.
    """
    pictures = partial(pictures_of, recipe=content.recipe, allowed=allowed)
    of_comparison = isinstance(content, Comparison)
    page = comparison_page(content, pictures) if of_comparison else run_page(content, pictures)
    html = render(page, watched)
    size = len(html.encode("utf-8", "replace"))
    if size > LARGEST:
        raise ReportError(
            f"the page would be {size / 1e6:.1f} MB, more than {LARGEST / 1e6:g}: "
            "compare fewer arms in one folder"
        )
    return html


def headline_of(content: Comparison | RunRecord) -> str:
    """The page's headline, as a terminal shows it."""
    text = headline(content) if isinstance(content, Comparison) else run_headline(content)
    return in_a_terminal(text)


def render(page: Page, watched: bool = False) -> str:
    """The HTML of a page."""
    require_extra("report", "pages need jinja2 and plotly", ReportError, "jinja2", "plotly")
    script, style = _own("report.js"), _own("report.css")
    watch = _own("watch.js") if watched else ""
    blocks = [block for section in page.sections for block in section.blocks]
    figures = {block.name: block.plot for block in blocks if isinstance(block, Figure)}
    packed, plotly_hash = _plotly()
    scripts = f"connect-src 'self'; script-src {_hash(watch)}" if watched else "script-src"
    return _template().render(
        page=page,
        style=style,
        script=script,
        figures=json_in_html(figures),
        plotly=packed,
        watch=watch,
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; "
        f"{scripts} {_hash(script)} {plotly_hash}; base-uri 'none'; form-action 'none'",
        version=frugalkd.__version__,
    )  # fmt: skip


def json_in_html(value: Any) -> str:
    """JSON for a script element, which no string in it can end: characters of HTML are escaped."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"})


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("frugalkd.experiments", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("template.html.j2")


def _own(name: str) -> str:
    return files("frugalkd.experiments.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly() -> tuple[str, str]:
    """plotly.js of the plotly package, gzipped in base64, and its hash for the page's policy."""
    content = files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    packed = gzip.compress(content, compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode("ascii"), _hash(content.decode("utf-8"))


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
