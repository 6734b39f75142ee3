"""Figures for papers: what they show, and that every file can be drawn from any names."""

from __future__ import annotations

import os
import sys
from html import unescape
from importlib.util import find_spec
from typing import Any

import pytest

from frugalkd.errors import PlotError
from frugalkd.experiments.report.paper import composed, panels_of, plot
from frugalkd.experiments.runs.schema import Comparison, RunRecord

HOSTILE = ["$x^$", "<script>alert(1)</script>", "a" * 10_000, "مرحبا", "🦊", "_under", "a\nb", ""]


@pytest.fixture
def drawing():
    if find_spec("matplotlib") is None:
        reason = "matplotlib is not installed: pip install -r requirements-dev.txt"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def arm(name, accuracy, budget, target=None, *, half: Any = 0.002, trained=(1.0, 0.5), **more):
    spread = {"mean": accuracy, "values": [accuracy] * 3}
    if half is not None:
        spread["ci95"] = [accuracy - half, accuracy + 2 * half]
    return {
        "arm": name,
        "seeds": [0, 1, 2],
        "accuracy": spread,
        "budget": {"mean": budget, "values": [budget] * 3},
        "budget_asked": target,
        "wall_ratio": {"mean": budget},
        "meters": {},
        "history": {"every": 1, "trained": list(trained), "participations": list(trained)},
        **more,
    }


ARMS = [
    arm("regulated@0.5", 0.90, 0.5, 0.5),
    arm("regulated@0.25", 0.89, 0.25, 0.25),
    arm("vanilla", 0.91, 1.0),
    arm("random@0.25", 0.87, 0.2501, 0.25),
    arm("random@0.5", 0.88, 0.5001, 0.5),
]


def comparison(arms=ARMS, **more):
    content = {"name": "made up", "reference": "vanilla", "arms": arms, "seeds": [0, 1, 2],
               "split": "test", "recipe": {}, **more}  # fmt: skip
    return Comparison.model_validate(content)


def run(history=((10, 10, 0), (4, 3, 5))):
    columns = ("trained", "participations", "screened")
    shares = {name: [epoch[k] / 10 for epoch in history] for k, name in enumerate(columns)}
    content = {"kind": "distill", "digest": "d", "recipe": {}, "versions": {}, "seed": 3,
               "threads": 1, "split": "test", "train_samples": 10, "budget": 0.7, "meters": {},
               "shares": shares}  # fmt: skip
    return RunRecord.model_validate(content)


def lines(panels, name):
    """The lines of a panel by name, without the frontier."""
    return {unescape(it["name"]): it for it in panels[name]["data"] if it["name"] != "frontier"}


def test_budgets_of_an_arm_share_a_line():
    panels, arms, _ = panels_of(comparison())
    assert list(panels) == ["frontier", "participation"]
    assert arms == [it["arm"] for it in ARMS]
    drawn = lines(panels, "frontier")
    assert {name: line["hovertext"] for name, line in drawn.items()} == {
        "vanilla": ["vanilla"],
        "regulated": ["regulated@0.25", "regulated@0.5"],
        "random": ["random@0.25", "random@0.5"],
    }
    assert [line["meta"]["colour"] for line in drawn.values()] == [0, 1, 2]
    dashes = {(it["legendgroup"], it["meta"].get("budget"), it["line"]["dash"])
              for it in panels["participation"]["data"]}  # fmt: skip
    assert dashes == {
        ("vanilla", None, "solid"),
        *((family, budget, dash) for family in ("regulated", "random")
          for budget, dash in (("25 %", "solid"), ("50 %", "dash"))),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (["random"], ["random@0.25", "random@0.5"]),
        (["random@0.5", "vanilla"], ["vanilla", "random@0.5"]),
    ],
)
def test_chosen_arms_keep_their_colours(wanted, shown):
    panels, arms, _ = panels_of(comparison(), None, wanted)
    assert arms == shown
    everything = panels_of(comparison())[0]
    for panel in panels:
        complete = lines(everything, panel)
        for name, line in lines(panels, panel).items():
            assert line["meta"]["colour"] == complete[name]["meta"]["colour"]


def test_missing_parts_are_left_out_with_a_reason():
    bare = arm("vanilla", 0.9, 1.0, history=None, half=None, collapsed=1)
    panels, _, caption = panels_of(comparison([bare], complete=False))
    assert list(panels) == ["frontier"]
    for words in ("without an interval", "collapsed or failed in: vanilla", "not complete"):
        assert words in caption
    unmeasured = arm("vanilla", None, 1.0, half=None)
    assert list(panels_of(comparison([unmeasured]))[0]) == ["participation"]


def test_a_run_shows_its_lines_where_they_differ():
    shown = {name: it["y"] for name, it in lines(panels_of(run())[0], "participation").items()}
    assert shown == {"trained": [100, 40], "failed the gate": [100, 30], "screened": [0, 50]}
    plain = panels_of(run([(10, 10, 0)]), "participation")[0]
    assert list(lines(plain, "participation")) == ["trained"]


@pytest.mark.parametrize(
    ("found", "to", "more", "says"),
    [
        (comparison(), "a.jpg", {}, "cannot draw 'a.jpg': its name must end in .pdf, .png or .svg"),
        (comparison(), "a", {}, "cannot draw 'a'"),
        (comparison(), "a.png", {"figure": "fronteir"}, "'fronteir': did you mean frontier?"),
        (comparison(), "a.png", {"arms": ["regulatd"]}, "'regulatd': did you mean regulated"),
        (run(), "a.png", {"figure": "frontier"}, "one run has no frontier"),
        (run(), "a.png", {"arms": ["vanilla"]}, "one run has no arms: leave --arms out"),
        (run([]), "a.png", {}, "there is nothing to plot: the run has no epochs"),
        (
            comparison([arm("vanilla", None, None, half=None, history=None)]),
            "a.png",
            {},
            "there is nothing to plot: no run of these arms is finished",
        ),
        (
            comparison([arm("vanilla", 0.9, 1.0, history=None)]),
            "a.png",
            {"figure": "participation"},
            "there is nothing to plot: their histories are missing",
        ),
    ],
)
def test_refusals_are_one_line(found, to, more, says, tmp_path):
    with pytest.raises(PlotError) as caught:
        plot(found, tmp_path / to, **more)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PlotError, match=r"^plots need matplotlib: pip install 'frugalkd\[plot\]'"):
        plot(comparison(), tmp_path / "a.png")


@pytest.mark.parametrize(
    ("ending", "begins"),
    [("pdf", b"%PDF"), ("png", b"\x89PNG"), ("svg", b"<?xml"), ("PNG", b"\x89PNG")],
)
@pytest.mark.heavy
def test_the_same_data_give_the_same_bytes(drawing, tmp_path, ending, begins):
    import matplotlib

    before = dict(matplotlib.rcParams)
    files = [tmp_path / f"{name}.{ending}" for name in "ab"]
    for file in files:
        done = plot(comparison(), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes().startswith(begins)
    assert dict(matplotlib.rcParams) == before
    assert done["figures"] == ["frontier", "participation"]
    assert done["seeds"] == [0, 1, 2]


@pytest.mark.heavy
def test_a_pdf_embeds_truetype(drawing, tmp_path):
    plot(comparison(), tmp_path / "a.pdf")
    content = (tmp_path / "a.pdf").read_bytes()
    assert b"/Type3" not in content
    assert b"/CIDFontType2" in content or b"/TrueType" in content


@pytest.mark.parametrize("ending", ["pdf", "png", "svg"])
@pytest.mark.heavy
def test_any_name_can_be_drawn(drawing, tmp_path, ending):
    arms = [arm(name, 0.9, 0.1 * place) for place, name in enumerate(HOSTILE, start=1)]
    plot(comparison(arms, reference=HOSTILE[0], split="test"), tmp_path / f"a.{ending}")
    assert b"<script" not in (tmp_path / f"a.{ending}").read_bytes()


def test_points_and_intervals_are_those_of_the_data(drawing):
    found: Any = comparison()
    panels: Any = panels_of(found)[0]
    figure = composed(list(panels.values()))
    frontier, participation = figure.axes
    complete = [bars for bars in frontier.containers if bars.has_yerr]
    families = {"vanilla": [2], "regulated": [1, 0], "random": [3, 4]}
    for bars, places in zip(complete, families.values(), strict=True):
        own = [found.arms[place] for place in places]
        point, _, (intervals,) = bars.lines
        assert point.get_ydata() == pytest.approx([100 * it.accuracy.mean for it in own])
        # Side by side, and close to their places.
        assert point.get_xdata() == pytest.approx([100 * it.budget.mean for it in own], abs=2)
        for segment, it in zip(intervals.get_segments(), own, strict=True):
            assert segment[:, 1] == pytest.approx([100 * end for end in it.accuracy.ci95])
    drawn = [tuple(line.get_ydata()) for line in participation.lines]
    assert drawn == [tuple(100 * share for share in it.history.trained) for it in found.arms]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "frontier", "vanilla", "regulated", "random", "25 %", "50 %",
    ]  # fmt: skip


@pytest.mark.heavy
def test_a_run_and_a_single_epoch_can_be_drawn(drawing, tmp_path):
    for place, found in enumerate((run(), run([(10, 10, 0)]))):
        assert plot(found, tmp_path / f"{place}.png")["figures"] == ["participation"]


@pytest.mark.heavy
def test_a_figure_for_a_dark_page(tmp_path):
    light, dark = tmp_path / "light.svg", tmp_path / "dark.svg"
    plot(comparison(), light)
    plot(comparison(), dark, dark=True)
    assert "#222222" in light.read_text()
    assert "#222222" not in dark.read_text()
    assert "#c9d1d9" in dark.read_text()
    assert "#ffffff" not in dark.read_text()  # neither a background
