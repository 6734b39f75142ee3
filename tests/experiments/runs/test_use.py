"""A run's model, used by another person than the one who made the run."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from frugalkd.errors import AccessRefused, DataError, ImportRefused, RunFolderError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.execute import teach
from frugalkd.experiments.runs.use import evaluate_run, predict_to_csv
from frugalkd.runtime.imports import Allowed
from memory_of import peak_of

Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")

FEW = {
    "data.train_size": 60,
    "teacher.training.epochs": 1,
    "teacher.model": {"name": "mlp", "options": {"hidden": [4]}},
}
GREY = {"size": 8, "channels": 1}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "t"
    teach(override(load_recipe("digits"), FEW), folder)
    return folder


@pytest.fixture
def run(sound, tmp_path) -> Path:
    """A copy, to be changed."""
    shutil.copytree(sound, tmp_path / "t")
    return tmp_path / "t"


def names(run: Path, **data) -> None:
    """Let a run's results name these data, without a digest of them."""
    said = json.loads((run / "results.json").read_text())
    said["recipe"]["data"] |= {"train_size": None, **data}
    (run / "results.json").write_text(json.dumps({**said, "data": None}))


def pictures(folder: Path, size=(8, 8), rows=3) -> Path:
    """Of two of the run's classes."""
    for kind in "01":
        (folder / kind).mkdir(parents=True)
        for row in range(rows):
            Image.new("L", size, 50 * row).save(folder / kind / f"{row}.png")
    return folder


def rows_of(table: Path) -> list[dict[str, str]]:
    with open(table, newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_reads_only_allowed_data(run, cli, tmp_path):
    private = pictures(tmp_path / "private")
    names(
        run,
        name="image-folder",
        options={"path": str(private), "test": 0.5, "size": 8, "channels": 1},
    )
    with pytest.raises(
        AccessRefused, match=r"read only where you allow it, with --data$"
    ) as caught:
        evaluate_run(run)
    assert str(private) in str(caught.value)
    code, _, err = cli("evaluate", str(run))
    assert (code, err.count("\n")) == (2, 1)
    assert cli("report", str(run))[0] == 0
    page = (run / "report.html").read_text()
    assert "allow it, with --data" in page
    assert "<img" not in page
    for allowed in (["--data"], ["--data", "own"]):  # its labels are those of the digits 0 and 1
        code, out, err = cli("evaluate", str(run), *allowed, "--json")
        assert (code, json.loads(out)["samples"]) == (0, 3), err


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_a_run_downloads_nothing(run, cli, tmp_path, monkeypatch, contacted, name):
    pytest.importorskip("torchvision")
    monkeypatch.setattr("frugalkd.data.named.DEBIAN_FASHION_MNIST", tmp_path / "not-installed")
    names(run, name=name, root=str(tmp_path / "new"))
    for options in ([], ["--data"], ["--data", "own", "--download"]):
        assert cli("evaluate", str(run), *options)[0] == 2
        assert cli("report", str(run), *[option for option in options if option != "own"])[0] == 0
    assert not (tmp_path / "new").exists()
    assert contacted == []


def test_a_run_fetches_only_what_is_allowed(run, monkeypatch, contacted):
    pytest.importorskip("datasets")
    names(run, name="hugging-face", options={"path": "owner/pictures", "image": "image"})
    with pytest.raises(AccessRefused, match=r"with --data --download$"):
        evaluate_run(run)
    with pytest.raises(AccessRefused, match=r"with --download$"):
        evaluate_run(run, allowed=Allowed(data=True))
    assert contacted == []

    def found(path, *_):
        raise DataError(f"opened {path}")

    monkeypatch.setattr("frugalkd.data.hugging_face.open_tables", found)
    with pytest.raises(DataError, match="opened owner/pictures"):
        evaluate_run(run, allowed=Allowed(data=True, download=True))


def test_one_line_names_all_options(run):
    names(run, name=None, path="nowhere.at_all:make")
    with pytest.raises(ImportRefused, match=r"with --data --import nowhere\.at_all:make$"):
        evaluate_run(run)


def test_a_recipe_that_is_none(run):
    names(run, name="nothing known")
    (run / "results.json").write_text(json.dumps({"schema": 1, "recipe": {"data": 3}}))
    with pytest.raises(RunFolderError, match="it holds no recipe"):
        evaluate_run(run, allowed=Allowed(data=True))


@pytest.mark.parametrize("following", [[], ["--import", "x:y"], ["own"]])
def test_no_value_of_data_is_the_runs_own(cli, sound, following):
    code, out, err = cli("evaluate", str(sound), "--data", *following, "--json")
    assert (code, json.loads(out)["data"]) == (0, "its test split"), err


@pytest.mark.heavy
def test_pictures_are_read_in_batches(run, tmp_path):
    """Each of the pictures takes 75 MB decoded, and 25 kB as a file."""
    big = tmp_path / "big"
    big.mkdir()
    Image.new("RGB", (5000, 5000), (9, 99, 199)).save(big / "0.png")
    for row in range(1, 5):
        shutil.copy(big / "0.png", big / f"{row}.png")
    peak = peak_of(
        "from frugalkd.experiments.runs.use import predict_to_csv; from pathlib import Path",
        f"predict_to_csv(Path({str(run)!r}), {str(big)!r}, Path({str(tmp_path / 'p.csv')!r}))",
    )
    assert [row["error"] for row in rows_of(tmp_path / "p.csv")] == [""] * 5
    assert peak < 250 << 20


def test_no_cell_is_a_formula(run, tmp_path):
    card = json.loads((run / "model.json").read_text())
    card["classes"] = [f"{sign}cmd|' /C calc'!A0" for sign in "=+-@\t\r=+-@"]
    (run / "model.json").write_text(json.dumps(card))
    folder = tmp_path / "p"
    folder.mkdir()
    for sign in "=+-@\t":
        Image.new("L", (8, 8)).save(folder / f"{sign}1+1.png")
    (folder / "=bad.png").write_bytes(b"junk")
    predict_to_csv(run, str(folder), tmp_path / "p.csv", with_probabilities=True)
    text = (tmp_path / "p.csv").read_text()
    with open(tmp_path / "p.csv", newline="") as file:
        table = list(csv.reader(file))
    assert len(table) == 7
    assert not [cell for row in table for cell in row if re.match(r"[=+@\t\r-]", cell)]
    assert "'=1+1.png" in text


def test_a_bad_picture_has_a_row_that_says_why(run, cli, tmp_path):
    folder, table = pictures(tmp_path / "p"), tmp_path / "p.csv"
    (folder / "0" / "a.png").write_bytes(b"junk")
    whole = (folder / "1" / "1.png").read_bytes()
    (folder / "1" / "cut.png").write_bytes(whole[:-30])
    arguments = ["predict", str(run), "--data", str(folder), "--out", str(table)]
    code, out, err = cli(*arguments, "--json")
    said = json.loads(out)
    assert (code, said["images"], said["failed"]) == (1, 8, 2)
    assert err.count("\n") == 1
    assert err.startswith("warning: 2 of 8 files are not readable pictures, without a class: 0/a")
    rows = rows_of(table)
    bad = {row["sample"]: row for row in rows if row["error"]}
    assert sorted(bad) == ["0/a.png", "1/cut.png"]
    assert bad["0/a.png"]["error"] == "no picture of a known format"
    assert [bad["1/cut.png"][column] for column in ("class", "name", "confidence")] == [""] * 3
    assert bad["1/cut.png"]["label"] == "1"
    for name in bad:
        (folder / name).unlink()
    code, out, _ = cli(*arguments)
    assert (code, "unreadable" in out) == (0, False)
    assert rows_of(table) == [row for row in rows if not row["error"]]
    (folder / "0" / "a.png").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"1 of 7 files of .* remove them: 0/a.png \(no picture"):
        evaluate_run(run, str(folder))  # a measure leaves nothing out in silence


def test_a_name_that_is_not_unicode(run, tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    try:
        Image.new("L", (8, 8)).save(folder / "\udcff.png")
    except OSError:
        pytest.skip("the file system takes no such name")
    predict_to_csv(run, str(folder), tmp_path / "p.csv")
    assert rows_of(tmp_path / "p.csv")[0]["sample"] == "\\udcff.png"


def test_an_array_is_read_in_batches(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    np.save(tmp_path / "one.npy", pixels[0])
    np.save(tmp_path / "none.npy", pixels[:0])
    found = {
        name: predict_to_csv(run, str(tmp_path / f"{name}.npy"), tmp_path / "p.csv").probabilities
        for name in ("x", "one", "none")
    }
    assert (found["x"].shape, found["none"].shape) == ((5, 10), (0, 10))
    assert np.allclose(found["one"], found["x"][:1], atol=1e-6)
    claims = (tmp_path / "x.npy").read_bytes().replace(b"(5, 8, 8)", b"(5000000, 8, 8)")
    (tmp_path / "x.npy").write_bytes(claims)
    with pytest.raises(DataError, match="is not an array of numbers"):
        predict_to_csv(run, str(tmp_path / "x.npy"), tmp_path / "p.csv")
