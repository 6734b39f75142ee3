from __future__ import annotations

import pytest

from frugalkd.data import DATA, Augmentation, check_data, load_data
from frugalkd.errors import DataError, UnknownName
from toys import as_images


def test_the_names():
    assert set(DATA) == {
        "digits",
        "fashion-mnist",
        "mnist",
        "cifar10",
        "image-folder",
        "banking77",
        "trec6",
        "text-lines",
        "hugging-face",
        "table",
    }


def test_unknown_name():
    with pytest.raises(UnknownName, match="did you mean fashion-mnist"):
        load_data("fashion_mnist")


def test_unknown_option():
    with pytest.raises(DataError, match="'digits' takes no option 'size'"):
        load_data("digits", size=3)


@pytest.mark.parametrize("option", ["download", "root"])
def test_no_option_starts_a_download(option):
    with pytest.raises(DataError, match=f"'mnist' takes no option '{option}'"):
        check_data("mnist", [option])


def test_named_data_come_without_augmentation():
    splits = load_data("digits")
    train, test = as_images(splits.train), as_images(splits.test)
    assert train.augmentation == test.augmentation == Augmentation()
