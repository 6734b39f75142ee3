"""Samples of the gallery, and why there may be none."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from made_up import make_comparison, make_summary
from PIL import Image

from frugalkd.data import TextData, data_digest, hold_out, load_data, take
from frugalkd.experiments.report import collect, gallery, make_page
from frugalkd.experiments.report.gallery import _png, pictures_of
from frugalkd.experiments.runs.schema import LedgerSummary
from frugalkd.runtime.imports import Allowed
from toys import as_images

DATA = Allowed(data=True)
TEXTS = [(f"text {k} " + "<b>" * 200, 0) for k in range(100)]
KINDS = [
    "<script>alert(1)</script>",
    "x" * 10_000,
    "\u202e\u05e9\u05dc\u05d5\u05dd right to left",
    "a\n\nb\x1b[1m",
    "😀" * 300,
    "&lt;<!--" * 99,
]
STRANGE = [{"text": KINDS[k % 6], "label": 0} for k in range(100)]
VECTORS = [(np.zeros(7), 0) for _ in range(100)]
PICTURES = [(np.full((3, 200, 300), k / 100), 0) for k in range(100)]


def texts():
    return TEXTS


def strange():
    return STRANGE


def vectors():
    return VECTORS


def pictures():
    return PICTURES


class Broken:
    def __len__(self):
        return 100

    def __getitem__(self, id):
        raise KeyError(f"no <b>{id}</b>")


def broken():
    return Broken()


def summary(**more):
    return LedgerSummary.model_validate({**make_summary(), **more})


def own(name, **more):
    recipe = make_comparison()["recipe"]
    path = f"{__name__}:{name}"
    recipe["data"] = {"path": path, "options": {}}
    return pictures_of(summary(**more), recipe, Allowed([path], data=True))


@pytest.mark.parametrize("shape", [(28, 28, 1), (5, 9, 3)])
def test_a_png_is_what_it_was_made_of(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    url = _png(pixels, 28)
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))
    assert np.array_equal(image.reshape(shape), pixels)


def test_digits_are_the_data_sets_own():
    recipe = make_comparison()["recipe"]
    recipe["data"] |= {"train_size": None, "validation": 0}
    data = as_images(load_data("digits").train)
    found = pictures_of(summary(samples=len(data), data=data_digest(data)), recipe, DATA)
    assert isinstance(found, dict)
    assert sorted(found) == list(range(9)), "at both ends, and labels to review"
    image = Image.open(io.BytesIO(base64.b64decode(found[3][0].partition(",")[2])))
    assert np.array_equal(np.asarray(image), data.images[3, 0].numpy())
    other = pictures_of(summary(samples=len(data), data="0" * 64), recipe, DATA)
    assert other == "the data here are not those that the ledger is of"


def test_code_of_ones_own_is_imported_only_where_it_is_named():
    recipe = make_comparison()["recipe"]
    recipe["data"] = {"path": "nowhere.at_all:make", "options": {}}
    said = pictures_of(summary(), recipe)
    assert isinstance(said, str)
    assert "--import nowhere.at_all:make" in said
    said = pictures_of(summary(), recipe, Allowed(["nowhere.at_all:make"], data=True))
    assert isinstance(said, str)
    assert "nowhere" in said


def test_texts_pictures_and_neither(monkeypatch):
    found = own("texts")
    assert isinstance(found, dict)
    assert found[2][0] == ""
    assert found[2][1].startswith("text 2 <b>")
    assert len(found[2][1]) == 280
    assert found[2][1].endswith("…")
    assert own("vectors") == "they are neither pictures nor texts"
    found = own("pictures")
    assert isinstance(found, dict)
    size = Image.open(io.BytesIO(base64.b64decode(found[1][0].partition(",")[2]))).size
    assert max(size) <= 96
    monkeypatch.setattr(gallery, "LARGEST", 100)
    assert own("pictures") == "they are too large"


@pytest.mark.parametrize("digest", [None, "d"])
def test_data_that_cannot_be_read_are_a_reason(digest):
    said = str(own("broken", data=digest))
    assert said.startswith("the data cannot be read: ")
    assert "no <b>0</b>" in said


def test_strange_texts_are_one_line_that_can_be_seen():
    found = own("strange")
    assert isinstance(found, dict)
    said = [found[id][1] for id in range(6)]
    assert said[0] == "<script>alert(1)</script>"
    assert said[2:4] == ["\u05e9\u05dc\u05d5\u05dd right to left", "a b [1m"]
    assert all(len(text) <= 280 and text.isprintable() for text in said)


def gallery_of(html):
    return html.partition('<section id="samples"')[2].partition("</section>")[0]


def test_a_page_of_texts_shows_them_escaped_and_stays_small(written):
    recipe = make_comparison()["recipe"]
    recipe["data"] = {"path": f"{__name__}:strange", "options": {}}
    content = make_comparison(recipe=recipe)
    ends = [{"id": id, "class": "<b>", "significance": 1.0, "confidence": 0.5, "correct": True}
            for id in range(48)]  # fmt: skip
    content["teachers"][0]["summary"] |= {"most": ends[:24], "least": ends[24:]}
    html = make_page(collect(written(content)), Allowed([f"{__name__}:strange"], data=True))
    shown = gallery_of(html)
    assert shown.count('<blockquote dir="auto">') == 48
    assert "&lt;script&gt;alert(1)&lt;/script&gt;</blockquote>" in shown
    assert "<script" not in shown
    assert "x" * 279 + "…" in shown
    assert len(shown.encode()) < 100_000 < gallery.LARGEST
    unasked = gallery_of(make_page(collect(written(content))))
    assert f"--import {__name__}:strange" in unasked
    assert "blockquote" not in unasked


@pytest.mark.parametrize("name", ["banking77", "trec6"])
def test_real_texts_are_the_data_sets_own(require_data, name):
    require_data(f"{name}/train.parquet")
    recipe = make_comparison()["recipe"]
    options: dict[str, Any] = {"max_length": 8}  # of the tokens; what is shown is not cut there
    recipe["data"] |= {"name": name, "options": options, "train_size": 300, "validation": 500}
    data = take(hold_out(load_data(name, **options).train, 500)[0], 300)
    assert isinstance(data, TextData)
    found = pictures_of(summary(samples=300, data=data_digest(data)), recipe, DATA)
    assert isinstance(found, dict)
    words = data.texts(range(9))
    assert words is not None
    assert {id: text for id, (_, text) in found.items()} == {
        id: " ".join(words[id].split())[:280] for id in range(9)
    }
    assert max(len(text.split()) for text in words) > 8


def test_a_recipe_of_another_version_has_no_gallery():
    assert pictures_of(summary(), {"name": "x"}) == "the recipe is of another version of frugalkd"
