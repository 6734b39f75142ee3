"""Where data lie, and the parts of a data set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from frugalkd.data import Augmentation, ImageData, data_root, hold_out, take
from frugalkd.data.samples import located
from frugalkd.errors import DataError


def test_the_order_of_data_roots(tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.delenv("FRUGALKD_DATA", raising=False)
    assert data_root() == Path("data")
    (tmp_path / "shared" / "data").mkdir(parents=True)
    assert data_root() == Path("../shared/data")
    monkeypatch.setenv("FRUGALKD_DATA", "elsewhere")
    assert data_root() == Path("elsewhere")
    assert data_root("mine") == Path("mine")


def test_located_says_where():
    with pytest.raises(DataError, match=r"^here: wrong$"), located("here"):
        raise DataError("wrong")


def numbered(rows: int = 100) -> ImageData:
    """Image i is a single pixel of value i."""
    return ImageData(
        torch.arange(rows, dtype=torch.uint8)[:, None, None, None],
        torch.arange(rows) % 2,
        ("even", "odd"),
        mean=(0.0,),
        std=(1.0,),
        augmentation=Augmentation(crop=1),
        seed=4,
    )


def ids(data: ImageData) -> list[int]:
    return data.images.flatten().tolist()


def test_hold_out_splits_at_random_and_always_the_same():
    train, validation = hold_out(numbered(), 30)
    assert sorted(ids(train) + ids(validation)) == list(range(100))
    assert ids(validation) == sorted(ids(validation))
    assert ids(train) == sorted(ids(train))
    assert len(validation) == 30
    assert ids(validation) not in (list(range(30)), list(range(70, 100)))
    assert ids(hold_out(numbered(), 30)[1]) == ids(validation)


def test_only_the_training_part_is_augmented():
    train, validation = hold_out(numbered(), 30)
    assert (train.augmentation, train.seed) == (Augmentation(crop=1), 4)
    assert validation.augmentation == Augmentation()


def test_take_is_nested_and_differs_from_hold_out():
    few, many = take(numbered(), 10), take(numbered(), 40)
    assert set(ids(few)) < set(ids(many))
    assert ids(many) == sorted(ids(many))
    assert ids(take(numbered(), 100)) == list(range(100))
    assert set(ids(few)) != set(ids(hold_out(numbered(), 10)[1]))


def test_impossible_counts():
    for rows in (0, -1, 100):
        with pytest.raises(DataError, match=r"give 1 \.\. 99"):
            hold_out(numbered(), rows)
    with pytest.raises(DataError, match="take of 101 rows from 100"):
        take(numbered(), 101)
