"""The page: everything is in it."""

from __future__ import annotations

import base64
import gzip
import json
import re
import time
from pathlib import Path

import pytest
from made_up import make_arm, make_comparison, make_summary, spread
from reading import Parsed, page_of

from frugalkd.errors import ReportError
from frugalkd.experiments.report import LARGEST, collect, make_page
from frugalkd.experiments.report import page as page_module
from frugalkd.experiments.report.blocks import Table, points
from frugalkd.experiments.report.page import render
from frugalkd.experiments.report.sections import comparison_page
from frugalkd.experiments.runs.schema import Comparison, Spread


def test_sections_and_numbers_stand_in_the_html(written):
    parsed = Parsed(page_of(written, make_comparison()))
    ids = [a["id"] for tag, a in parsed.elements if tag == "section"]
    assert ids == [
        "frontier", "arms", "participation", "significance", "samples", "time", "costs", "again",
    ]  # fmt: skip
    text = parsed.text.replace("\u00a0", " ")
    for number in (
        "90.30 ± 0.20", "89.90 ± 0.20", "-0.40 ± 0.20", "27.0", "0.33",  # the arms
        "0.500",  # of a class
        "frugalkd compare recipe.yaml --arms vanilla,regulated,random:regulated --seeds 10",
        "2.13.0", "threads", "name: digits", "000000000000",
    ):  # fmt: skip
        assert number in text, number
    figures = [a["data-figure"] for _, a in parsed.elements if "data-figure" in a]
    frontiers = ["frontier-cost", "frontier-budget", "frontier-time"]
    assert figures == [*frontiers, "participation", "classes", "histogram", "phases"]


def test_plots_have_the_points_of_the_arms(written):
    html = page_of(written, make_comparison())
    figures = json.loads(re.findall(r'id="figures">(.*?)</script>', html)[0])
    costs = {line["name"]: line for line in figures["frontier-cost"]["data"]}
    assert costs["regulated"]["customdata"] == pytest.approx([24 * 0.27])  # epochs
    lines = {line["name"]: line for line in figures["frontier-budget"]["data"]}
    assert lines["regulated"]["customdata"] == pytest.approx([27])
    assert lines["regulated"]["x"] == pytest.approx([26.5])  # beside random, which has as many
    assert [lines[name]["text"] for name in ("regulated", "vanilla")] == [
        ["regulated"],
        ["vanilla"],
    ]
    assert lines["regulated"]["y"] == pytest.approx([89.9])
    assert lines["regulated"]["error_y"]["array"] == pytest.approx([0.2])
    assert lines["frontier"]["y"] == pytest.approx([89.9, 90.3])  # random is beaten
    assert figures["frontier-time"]["data"][2]["x"] == pytest.approx([33])
    took = {line["name"]: line["y"] for line in figures["participation"]["data"]}
    assert took["regulated"] == pytest.approx([100, 27])
    seconds = {line["name"]: line["x"] for line in figures["phases"]["data"]}
    assert seconds["backward"] == pytest.approx([20, 5.4, 5.4])


def test_each_named_phase_has_its_own_colour(written):
    phases = {f"phase {k}": 10.0 - k for k in range(9)} | {"other": 20.0}
    arms = [make_arm("vanilla", 0.9, mode="vanilla")]
    arms[0]["meters"]["phases"] = phases
    html = page_of(written, make_comparison(arms))
    figures = json.loads(re.findall(r'id="figures">(.*?)</script>', html)[0])
    bars = figures["phases"]["data"]
    assert bars[-1]["name"] == "other"
    assert len({bar["meta"]["colour"] for bar in bars}) == len(bars) == 10


def test_of_many_classes_both_ends_are_drawn(written):
    names = [f"a class that is called {k}" for k in range(300)]
    content = make_comparison()
    content["teachers"][0]["summary"] = make_summary(tuple(names))
    html = page_of(written, content)
    plot = json.loads(re.findall(r'id="figures">(.*?)</script>', html)[0])["classes"]
    assert plot["data"][0]["text"] == [*names[:20], *names[-20:]]
    assert plot["data"][0]["y"] == [*range(20), *range(21, 41)]  # apart
    axis = plot["layout"]["yaxis"]
    assert (axis["ticktext"][-1], axis["narrow"][-1]) == (names[-1], "a class that is c…")
    assert plot["layout"]["height"] < 1200
    text = Parsed(html).text
    assert "The 20 highest and the 20 lowest are drawn." in text
    assert all(text.count(name) for name in names)


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        ([0.25, 0.252, 0.249], "arm: 25.0 % throughout"),
        ([1.0, 0.5, 0.28], "arm: 100.0 % to 28.0 %"),
        ([0.3, 1.0, 0.3], "arm: 30.0 % to 30.0 %"),
    ],
)
def test_participation_in_words(written, trained, said):
    history = {"every": 1, "trained": trained, "participations": trained}
    arms = [make_arm("vanilla", 0.9, mode="vanilla"), make_arm("arm", 0.8, 0.5, history=history)]
    text = Parsed(page_of(written, make_comparison(arms))).text.replace("\u00a0", " ")
    assert f"From the first epoch to the last: vanilla: 100.0 % throughout; {said}." in text


def test_bars_of_two_seeds_stay_on_the_axes(written):
    arms = [make_arm("vanilla", 0.9, mode="vanilla"), make_arm("arm", 0.4, 0.3, 0.8)]
    for arm, half in zip(arms, (0.05, 1.2), strict=True):
        arm["accuracy"] = spread(arm["accuracy"]["mean"], half, 2)
        arm["wall_ratio"] = spread(arm["wall_ratio"]["mean"], half, 2)
    html = page_of(written, make_comparison(arms))
    figures = json.loads(re.findall(r'id="figures">(.*?)</script>', html)[0])
    lines = figures["frontier-time"]["data"]
    for axis, expected in (("x", [95, 105, 0, 110]), ("y", [85, 95, 0, 100])):
        ends = []
        for line in lines[1:]:
            (at,), bar = line[axis], line[f"error_{axis}"]
            assert not bar["symmetric"]
            ends += [at - bar["arrayminus"][0], at + bar["array"][0]]
        assert ends == pytest.approx(expected)


@pytest.mark.parametrize("teachers", [[], None])
def test_no_link_leads_to_an_empty_section(teachers):
    content = make_comparison(**({} if teachers is None else {"teachers": teachers}))
    found = Comparison.model_validate(content)
    parsed = comparison_page(found, lambda summary: "no")
    blocks_of = {section.id: section.blocks for section in parsed.sections}
    assert all(any(not isinstance(block, str) for block in blocks) for blocks in blocks_of.values())
    if teachers is None:
        assert "missing" not in blocks_of
    else:
        assert list(blocks_of) == ["frontier", "arms", "participation", "time", "missing", "again"]
        (table,) = blocks_of["missing"]
        assert isinstance(table, Table)
        assert [row[0].text for row in table.cells] == [
            "Significance by class", "The samples at both ends", "What ledger and store cost",
        ]  # fmt: skip


def test_an_arm_that_gets_nothing_right_is_shown(written):
    arms = [make_arm("vanilla", 0.9, mode="vanilla"), make_arm("broken", 0.0, 0.5, collapsed=10)]
    html = page_of(written, make_comparison(arms))
    figures = json.loads(re.findall(r'id="figures">(.*?)</script>', html)[0])
    assert [line["y"] for line in figures["frontier-budget"]["data"]][2] == [0]
    assert "10 of 10 collapsed" in html


@pytest.mark.parametrize(
    ("mean", "text"), [(-0.00001, "0.00"), (0.00001, "0.00"), (-0.0001, "-0.01"), (0.001, "+0.10")]
)
def test_a_difference_has_a_sign_where_it_is_one(mean, text):
    assert points(Spread(mean=mean), signed=True) == text


def test_plotly_is_packed_whole_and_nothing_else_may_run(written):
    import hashlib
    from importlib.resources import files

    html = page_of(written, make_comparison())
    packed = re.findall(r'id="plotly">(.*?)</script>', html)[0]
    script = gzip.decompress(base64.b64decode(packed))
    assert script == files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    policy = re.findall(r'Policy" content="(.*?)"', html)[0].replace("&#39;", "'")
    assert "default-src 'none'" in policy
    own = html.rpartition("<script>")[2].partition("</script>")[0].encode()
    for text in (script, own):
        assert base64.b64encode(hashlib.sha256(text).digest()).decode() in policy


def test_500_runs_in_3_seconds(written):
    history = {"every": 1, "trained": [0.5] * 100, "participations": [0.25] * 100}
    arms = [make_arm("vanilla", 0.9, mode="vanilla", history=history)]
    arms += [make_arm(f"arm{k}", 0.8, 0.5, history=history) for k in range(49)]
    folder = written(make_comparison(arms))
    began = time.process_time()
    html = make_page(collect(folder))
    assert time.process_time() - began < 3
    assert len(html.encode()) < LARGEST
    assert html.count(f"{9:064x}"[:12]) >= 50


def test_a_page_that_is_too_large_is_refused(written, monkeypatch):
    monkeypatch.setattr(page_module, "LARGEST", 1_000_000)
    with pytest.raises(ReportError, match="MB, more than 1: compare fewer arms"):
        page_of(written, make_comparison())


def test_an_empty_comparison_has_a_page_too(written):
    arm = make_arm("vanilla", 0.9, seeds=1, history=None)
    arm |= {"accuracy": {"mean": None, "ci95": None, "values": [None]}, "failed": [0],
            "collapsed": 1, "meters": {}, "wall_ratio": {"mean": None},
            "budget": {"mean": None, "values": [None]}, "digests": {}}  # fmt: skip
    html = page_of(written, make_comparison([arm], teachers=[], complete=False, versions=None))
    text = Parsed(html).text
    assert "no run has given an accuracy yet" in text
    assert "1 of 1 failed" in text


def test_the_command_line(written, cli, tmp_path):
    folder = written(make_comparison())
    code, out, err = cli("report", str(folder))
    assert (code, err) == (0, "")
    assert "89.9 % with 27 % of the samples" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
    page = (folder / "report.html").read_bytes()
    code, out, err = cli("report", str(folder), "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert said["file"] == str(folder / "report.html")
    assert said["bytes"] == len(page)
    assert said["headline"].startswith("regulated: 89.9 % with 27 % of the samples, 27 % of")
    code, out, _ = cli(
        "report", str(folder / "comparison.json"), "--out", str(tmp_path / "a/b.html")
    )
    assert code == 0
    assert (tmp_path / "a/b.html").read_bytes() == (folder / "report.html").read_bytes()
    code, out, err = cli("report", str(tmp_path / "nowhere"))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


@pytest.mark.heavy
def test_the_committed_results_are_small_and_have_their_page():
    results = Path(__file__).parents[3] / "benchmarks/results"
    pages = 0
    for file in sorted(results.glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        runs = sum(len(arm.get("seeds", [])) for arm in content.get("arms", []))
        if runs and "recipe" in content:
            assert file.stat().st_size <= 50_000 * runs
            assert len(page_of_file(file).encode()) <= LARGEST
            pages += 1
    assert pages >= 10


def page_of_file(file):
    """Without the data, which a machine need not have."""
    found = collect(file)
    assert isinstance(found, Comparison)
    return render(comparison_page(found, lambda summary: "not shown"))


def test_a_page_takes_no_other_files_place(written, cli):
    folder = written(make_comparison())
    file = folder / "comparison.json"
    before = file.read_bytes()
    for out in (file, folder, folder / "page"):
        code, said, err = cli("report", str(folder), "--out", str(out))
        assert (code, said, err) == (
            2, "", f"error: --out must end in .html, not {out}\n"
        )  # fmt: skip
    assert file.read_bytes() == before


def test_other_results_are_not_called_damaged(tmp_path, cli):
    for content in ({"schema": 2}, {"schema": 2, "arms": [{}]}):
        (tmp_path / "times.json").write_text(json.dumps(content))
        code, out, err = cli("report", str(tmp_path / "times.json"))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "is not of a comparison: name the folder of a comparison or of a run" in err


def test_a_real_run_and_a_real_comparison(cli, tmp_path):
    settings = ["--set", "data.train_size=100", "--set", "teacher.training.epochs=2"]
    assert cli("teach", "digits", "--out", str(tmp_path / "t"), *settings)[0] == 0
    assert cli("report", str(tmp_path / "t"), "--data")[0] == 0
    parsed = Parsed((tmp_path / "t/report.html").read_text())
    assert "frugalkd teach recipe.yaml --seed 0" in parsed.text
    pictures = [a for tag, a in parsed.elements if tag == "img"]
    assert len(pictures) == 48 + 100, "at both ends, and labels to review"
    assert all(picture["alt"] for picture in pictures)
