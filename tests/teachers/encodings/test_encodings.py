"""The registry: every encoding can be made again from what a header says of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from frugalkd.errors import FrugalKDError
from frugalkd.teachers.encodings import ENCODINGS, make_encoding


@pytest.mark.parametrize("name", ENCODINGS)
def test_an_encoding_says_how_to_make_it_again(name):
    encoding = make_encoding(name, k=3, temperature=2.0)
    assert encoding.settings["name"] == name
    assert make_encoding(**encoding.settings) == encoding
    assert encoding.temperature in (None, 2.0)


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_row_does_not_depend_on_its_batch(name):
    encoding = make_encoding(name, k=3)
    logits = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32)
    ids, views = np.arange(6) * 11, np.arange(6)
    whole = encoding.encode(logits, ids, views)
    alone = [encoding.encode(logits[i : i + 1], ids[i : i + 1], views[i : i + 1]) for i in range(6)]
    assert np.concatenate(alone).tobytes() == whole.tobytes()
    decoded = encoding.decode(whole, 9)
    assert decoded.shape == (6, 9)
    assert np.array_equal(encoding.decode(whole[2:3], 9), decoded[2:3])
    assert encoding.decode(whole[:0], 9).shape == (0, 9)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "float8"},
        {"name": "top-k", "k": 0},
        {"name": "top-k", "k": True},
        {"name": "sampled", "k": 1 << 20},
        {"name": "sampled", "k": "3"},
        {"name": "sampled", "temperature": 0},
        {"name": "top-k", "temperature": math.inf},
        {"name": "top-k", "temperature": math.nan},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(FrugalKDError, match=r"^(?!.*\n)"):
        make_encoding(**settings)
