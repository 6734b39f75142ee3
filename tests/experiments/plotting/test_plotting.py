"""Figures for papers: what they show, and that every file can be drawn from any names."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from frugalkd.errors import PlotError
from frugalkd.experiments.plotting import plot
from frugalkd.experiments.plotting._content import of_comparison, of_run
from frugalkd.experiments.runs.schema import Comparison, Run

HOSTILE = ["$x^$", "<script>alert(1)</script>", "a" * 10_000, "مرحبا", "🦊", "_under", "a\nb", ""]


@pytest.fixture
def drawing():
    """The module that needs matplotlib."""
    if find_spec("matplotlib") is None:
        reason = "matplotlib is not installed: pip install -r requirements-dev.txt"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    from frugalkd.experiments.plotting import _draw

    return _draw


def arm(name, accuracy, budget, asked=None, *, half: Any = 0.002, trained=(1.0, 0.5), **more):
    spread = {"mean": accuracy, "values": [accuracy] * 3}
    if half is not None:
        spread["ci95"] = [accuracy - half, accuracy + 2 * half]
    return {
        "arm": name,
        "seeds": [0, 1, 2],
        "accuracy": spread,
        "budget": {"mean": budget, "values": [budget] * 3},
        "budget_asked": asked,
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
    return Run.model_validate(content)


def test_budgets_of_an_arm_are_one_family_and_the_reference_is_its_own():
    content = of_comparison(comparison(), None, [])
    assert content.panels == ["frontier", "participation"]
    found = {family.name: [arm.arm for arm in family.arms] for family in content.families}
    assert found == {
        "vanilla": ["vanilla"],
        "regulated": ["regulated@0.25", "regulated@0.5"],
        "random": ["random@0.25", "random@0.5"],
    }
    assert [family.place for family in content.families] == [0, 1, 2]
    assert content.dashes == ["25 %", "50 %"]
    dashes = {(line.name, line.dash) for line in content.lines}
    assert dashes == {("vanilla", 0), ("regulated", 0), ("regulated", 1), ("random", 0),
                      ("random", 1)}  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (["random"], ["random@0.25", "random@0.5"]),
        (["random@0.5", "vanilla"], ["vanilla", "random@0.5"]),
    ],
)
def test_chosen_arms_look_as_they_do_among_all(wanted, shown):
    content = of_comparison(comparison(), None, wanted)
    assert content.arms == shown
    places = {
        family.name: family.place for family in of_comparison(comparison(), None, []).families
    }
    assert all(family.place == places[family.name] for family in content.families)
    assert {line.place for line in content.lines} == {places[f.name] for f in content.families}


def test_what_is_missing_is_left_out_and_said():
    bare = arm("vanilla", 0.9, 1.0, history=None, half=None, collapsed=1)
    content = of_comparison(comparison([bare], complete=False), None, [])
    assert content.panels == ["frontier"]
    for words in ("without an interval", "collapsed or failed in: vanilla", "not complete"):
        assert words in content.caption
    unmeasured = arm("vanilla", None, 1.0, half=None)
    assert of_comparison(comparison([unmeasured]), None, []).panels == ["participation"]


def test_a_run_shows_what_trained_and_what_there_was_of_the_rest():
    shown = {line.name: line.shares for line in of_run(run(), None).lines}
    assert shown == {"trained": [1, 0.4], "failed the gate": [1, 0.3], "screened": [0, 0.5]}
    plain = of_run(run([(10, 10, 0)]), "participation")
    assert [line.name for line in plain.lines] == ["trained"]


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
def test_what_cannot_be_drawn_is_one_line(found, to, more, says, tmp_path):
    with pytest.raises(PlotError) as caught:
        plot(found, tmp_path / to, **more)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_command_that_installs_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "frugalkd.experiments.plotting._draw", raising=False)
    with pytest.raises(PlotError, match=r"^plots need matplotlib: pip install 'frugalkd\[plot\]'"):
        plot(comparison(), tmp_path / "a.png")


@pytest.mark.parametrize(
    ("ending", "begins"),
    [("pdf", b"%PDF"), ("png", b"\x89PNG"), ("svg", b"<?xml"), ("PNG", b"\x89PNG")],
)
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


def test_a_pdf_embeds_truetype(drawing, tmp_path):
    plot(comparison(), tmp_path / "a.pdf")
    content = (tmp_path / "a.pdf").read_bytes()
    assert b"/Type3" not in content
    assert b"/CIDFontType2" in content or b"/TrueType" in content


@pytest.mark.parametrize("ending", ["pdf", "png", "svg"])
def test_any_name_can_be_drawn(drawing, tmp_path, ending):
    arms = [arm(name, 0.9, 0.1 * place) for place, name in enumerate(HOSTILE, start=1)]
    plot(comparison(arms, reference=HOSTILE[0], split="test"), tmp_path / f"a.{ending}")
    assert b"<script" not in (tmp_path / f"a.{ending}").read_bytes()


def test_points_intervals_and_lines_are_those_of_the_data(drawing):
    content: Any = of_comparison(comparison(), None, [])
    figure = drawing.composed(content)
    frontier, participation = figure.axes
    by_colour = {bars.lines[0].get_color(): bars for bars in frontier.containers}
    assert len(by_colour) == 3
    for family in content.families:
        point, _, (bars,) = by_colour[drawing.look(family.place)["color"]].lines
        assert point.get_ydata() == pytest.approx([100 * a.accuracy.mean for a in family.arms])
        # Side by side, and not further from their place than an eye would forgive.
        assert point.get_xdata() == pytest.approx([100 * a.budget.mean for a in family.arms], abs=2)
        ends = [segment[:, 1] for segment in bars.get_segments()]
        for (low, high), own in zip(ends, family.arms, strict=True):
            assert (low, high) == pytest.approx([100 * end for end in own.accuracy.ci95])
    drawn = sorted(tuple(line.get_ydata()) for line in participation.lines)
    assert drawn == sorted(tuple(100 * s for s in line.shares) for line in content.lines)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "vanilla", "regulated", "random", "25 %", "50 %",
    ]  # fmt: skip


def test_a_run_and_a_single_epoch_can_be_drawn(drawing, tmp_path):
    for place, found in enumerate((run(), run([(10, 10, 0)]))):
        assert plot(found, tmp_path / f"{place}.png")["figures"] == ["participation"]
