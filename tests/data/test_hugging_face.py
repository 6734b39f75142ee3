from __future__ import annotations

import pytest
import torch

from frugalkd.data import ImageData, LazyImages, Samples, TextData, load_data
from frugalkd.data.cifar import _read
from frugalkd.errors import DataError, UnsupportedData

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def digits():
    """scikit-learn's digits as they come."""
    return load_data("digits")


@pytest.fixture(scope="module")
def saved(digits, tmp_path_factory):
    """Digits as a folder of ``save_to_disk``, with the splits train (200) and test (50)."""
    from PIL import Image

    parts = {}
    for name, rows in (("train", 200), ("test", 50)):
        part = getattr(digits, name)
        parts[name] = datasets.Dataset.from_dict(
            {
                "picture": [Image.fromarray(image[0].numpy()) for image in part.images[:rows]],
                "digit": part.labels[:rows].tolist(),
                "word": ["even" if y % 2 == 0 else "odd" for y in part.labels[:rows].tolist()],
                "weight": [float(y) for y in part.labels[:rows].tolist()],
            }
        )
    folder = tmp_path_factory.mktemp("saved") / "digits"
    datasets.DatasetDict(parts).save_to_disk(folder)
    return folder


def load(path, **options):
    return load_data("hugging-face", path=str(path), **options)


def test_cifar10_parquet_gives_the_pixels_of_our_own_reader(require_data):
    file = require_data("cifar10/test.parquet")
    splits = load_data("hugging-face", file.parent.parent, path="cifar10", image="img")
    assert len(splits.train) == 50_000
    part, own = splits.test, _read(file)
    assert isinstance(part, LazyImages)
    assert part.classes == own.classes
    assert torch.equal(part.labels, own.labels)
    ids = torch.arange(0, 10_000, 200)
    assert torch.equal(part.pixels(ids), own.images[ids])


def test_a_folder_of_save_to_disk(saved, digits):
    splits = load(saved, image="picture", label="digit", channels=1)
    assert isinstance(splits.train, LazyImages)
    assert len(splits.train) == 200
    assert splits.train.shape == (1, 8, 8)
    assert splits.train.classes == tuple("0123456789")
    assert torch.equal(splits.test.labels, digits.test.labels[:50])
    x, y = splits.test[3]
    assert torch.allclose(x, digits.test.images[3] / 255 / 0.5 - 1)
    assert y == digits.test.labels[3]


def test_names_are_classes(saved, digits):
    splits = load(saved, image="picture", label="word")
    assert splits.train.classes == ("even", "odd")
    assert torch.equal(splits.train.labels, digits.train.labels[:200] % 2)


def test_a_part_of_train_is_held_out(saved):
    splits = load(saved, image="picture", label="digit", test=0.25)
    assert (len(splits.train), len(splits.test)) == (150, 50)
    again = load(saved, image="picture", label="digit", test=0.25)
    assert splits.test.digest() == again.test.digest() != splits.train.digest()


def test_all_decoded_at_once_is_the_same(saved):
    options = {"image": "picture", "label": "digit", "size": [6, 10]}
    lazy, kept = load(saved, **options).train, load(saved, in_memory=True, **options).train
    assert isinstance(lazy, LazyImages)
    assert isinstance(kept, ImageData)
    assert lazy.shape == kept.shape == (3, 6, 10)
    assert all(torch.equal(lazy.view(id, 5)[0], kept.view(id, 5)[0]) for id in (0, 7, 199))


def test_reading_labels_reads_no_picture(saved, monkeypatch):
    def fail(*args):
        raise AssertionError("a picture was read")

    monkeypatch.setattr("frugalkd.data.lazy_images.decoded", fail)
    splits = load(saved, image="picture", label="digit")
    assert isinstance(splits.train, Samples)
    assert len(splits.train.subset(range(10)).labels) == 10


def test_sound_16_a_missing_column_lists_the_columns(saved):
    with pytest.raises(DataError) as caught:
        load(saved, image="picture", label="intent")
    for column in ("picture", "digit", "word"):
        assert column in str(caught.value).partition("the columns are")[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "digit"}, "which column holds the pictures: image"),
        ({"image": "picture"}, "no column 'label'"),
        ({"image": "pictures", "label": "digit"}, "no column 'pictures': the columns are picture"),
        ({"image": "digit", "label": "digit"}, "'digit' holds no pictures"),
        ({"image": "picture", "label": "digit", "train": "tarin"}, "no split 'tarin'"),
        ({"image": "picture", "label": "digit", "test": "dev"}, "no split 'dev'"),
        ({"image": "picture", "label": "digit", "test": 1.5}, "between 0 and 1"),
        ({"image": "picture", "label": "digit", "channels": 2}, "channels is 2"),
        ({"image": "picture", "label": "digit", "size": 0}, "size is 0"),
    ],
)
def test_refused_in_one_line(saved, options, message):
    with pytest.raises(DataError, match=message) as caught:
        load(saved, **{"label": "label", **options})
    assert "\n" not in str(caught.value)


def test_regression_is_refused(saved):
    with pytest.raises(UnsupportedData, match="type double"):
        load(saved, image="picture", label="weight")


def test_a_missing_file_is_no_name_on_the_hub(tmp_path):
    with pytest.raises(DataError, match=r"there\.parquet is not there"):
        load(tmp_path / "there.parquet", image="img")


def test_what_cannot_be_decoded_is_named(tmp_path):
    table = datasets.Dataset.from_dict({"img": [b"\x89PNG\r\n", b"junk"] * 4, "label": [0, 1] * 4})
    table.to_parquet(str(tmp_path / "bad.parquet"))
    with pytest.raises(DataError, match="row 0 of column 'img'"):
        load(tmp_path / "bad.parquet", image="img", test=0.5)


@pytest.mark.parametrize("saved_to_disk", [True, False])
def test_the_words_of_a_column_can_be_read_again(tmp_path, saved_to_disk):
    words = [f"text {k} \u202e<b>" for k in range(20)]
    table = datasets.Dataset.from_dict({"body": words, "label": [k % 2 for k in range(20)]})
    path = tmp_path / ("saved" if saved_to_disk else "a.parquet")
    table.save_to_disk(path) if saved_to_disk else table.to_parquet(path)
    splits = load(path, text="body", test=0.25)
    assert isinstance(splits.train, TextData)
    assert isinstance(splits.test, TextData)
    train, test = (part.texts(range(len(part))) or [] for part in (splits.train, splits.test))
    assert (len(train), len(test)) == (15, 5)
    assert sorted(train + test) == sorted(words)
    assert [words.index(text) % 2 for text in train] == splits.train.labels.tolist()
