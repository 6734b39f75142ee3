"""Names, texts and folders may be anything: nothing gets out of the page or runs in it."""

from __future__ import annotations

import json
import re

import pytest
from made_up import make_arm, make_comparison, make_summary
from reading import Parsed, page_of

from frugalkd.experiments.report import LARGEST, collect, headline_of
from frugalkd.experiments.report.page import json_in_html
from frugalkd.experiments.report.watch import Watched

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(1)</script>",
    "x" * 10_000,
    "\u202eright to left שלום",
    "😀" * 300,
    "{{ 7 * 7 }} {% raw %}",
    "a\nb\tc\u0000d|e`f`",
    "=HYPERLINK('http://x')",
    "javascript:alert(1)",
    "%{x}",
]
NAME = "\u05e9\u05dc\u05d5\u05dd"
"""From right to left."""


def hostile():
    arms = [make_arm("vanilla", 0.9, mode="vanilla")]
    arms += [make_arm(name, 0.8, 0.5, mode="regulated", about=name) for name in HOSTILE]
    arms[1]["digests"] = {name: name for name in HOSTILE}
    summary = make_summary(tuple(HOSTILE))
    failed = [{"kind": "distill", "name": name, "seed": 0, "error": name} for name in HOSTILE]
    claims = [
        {"arm": HOSTILE[0], "against": HOSTILE[2], "claim": "better", "holds": False, "p_holm": 1.0,
         "difference": {"mean": 0.0, "ci95": None}, "why": HOSTILE[1]}
    ]  # fmt: skip
    content = make_comparison(arms, failed=failed, claims=claims, name=HOSTILE[2], notes=HOSTILE)
    content["teachers"][0] |= {"teacher": HOSTILE[0], "summary": summary}
    content["versions"] = {name: name for name in HOSTILE}
    content["recipe"] |= {"name": HOSTILE[2], "summary": HOSTILE[3]}
    return content


def test_hostile_names_do_no_harm(written):
    html = page_of(written, hostile())
    parsed = Parsed(html)
    scripts = [attributes for tag, attributes in parsed.elements if tag == "script"]
    assert scripts == [
        {"type": "application/json", "id": "figures"},
        {"type": "text/plain", "id": "plotly"},
        {},
    ]
    assert not [tag for tag, _ in parsed.elements if tag in ("img", "iframe", "object", "form")]
    names = {name for _, attributes in parsed.elements for name in attributes}
    assert not [name for name in names if name.startswith("on")]
    links = [a.get("href", "") for tag, a in parsed.elements if tag == "a"]
    assert all(link.startswith("#") for link in links)
    assert "49" not in re.findall(r"<h1>.*?</h1>", html)[0]
    assert "<script>alert(1)</script>" in parsed.text  # seen as it is
    before_recipe = html.partition('<section id="again"')[0]
    assert 50 < max(map(len, re.findall(r"x+", before_recipe))) <= 400
    json.loads(re.findall(r'id="figures">(.*?)</script>', html)[0])


def test_names_in_plots_are_text_for_plotly(written):
    html = page_of(written, hostile())
    figures = json.loads(re.findall(r'id="figures">(.*?)</script>', html)[0])
    said = json.dumps(figures)
    assert "&lt;script&gt;" in said
    for tag in ("<script", "<img", "<a ", "javascript:alert(1)</"):
        assert tag not in said


def test_json_cannot_end_its_element():
    value = {"</script>": ["<!--", "&amp;", "]]>", "\u2028"]}
    text = json_in_html(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_a_name_does_not_turn_its_sentence(written):
    arms = [make_arm("vanilla", 0.9, mode="vanilla"), make_arm(NAME, 0.89, 0.3, mode="hybrid")]
    content = make_comparison(arms)
    html = page_of(written, content)
    isolated = f"\u2068{NAME}\u2069"
    assert f"<h1><bdi>{isolated}: 89.0" in html
    assert f"{isolated}: 100.0" in html  # of participation
    assert "\u2068vanilla" not in html
    assert headline_of(collect(written(content))).startswith(f"{NAME}: 89.0 % with 30 %")


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "a\x1b[31m\nb", "\u202e[red]", "😀" * 60]
)
def test_folders_may_be_called_anything(cli, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    waiting = Parsed(Watched(folder).page()[0].decode())  # before there are results
    assert not [tag for tag, _ in waiting.elements if tag == "img"]
    (folder / "comparison.json").write_text(json.dumps(make_comparison()))
    code, out, err = cli("report", str(folder))
    assert (code, err) == (0, "")
    assert all(sign.isprintable() or sign == "\n" for sign in out)
    assert (folder / "report.html").stat().st_size < LARGEST
    code, out, err = cli("report", str(folder / "nowhere"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err[:-1].isprintable()
