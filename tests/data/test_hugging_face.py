from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from frugalkd import Training, train_teacher
from frugalkd.data import ImageData, Samples, TextData, data_digest, load_data
from frugalkd.data.images import LazyImages
from frugalkd.data.named import read_cifar
from frugalkd.errors import DataError
from frugalkd.objectives import BinaryCrossEntropy, SquaredError

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
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
                "tags": [
                    ["odd" if y % 2 else "even", *(["small"] if y < 3 else [])]
                    for y in part.labels[:rows].tolist()
                ],
            }
        )
    folder = tmp_path_factory.mktemp("saved") / "digits"
    datasets.DatasetDict(parts).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
    "path", ["https://evil.example/x.csv", '"https:\\x2f\\x2fevil.example/x.csv"']
)
def test_the_card_of_a_local_folder_fetches_nothing(tmp_path, contacted, card, path):
    (tmp_path / "a.csv").write_text("picture,label\n1,2\n")
    configs = (
        f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {path}\n"
    )
    text = f"---\n{configs}---\n" if card.endswith(".md") else configs
    (tmp_path / card).write_text(text)
    with pytest.raises(DataError, match="names files on a network"):
        load(tmp_path, image="picture")
    assert contacted == []


def test_a_card_may_speak_of_the_network(tmp_path):
    (tmp_path / "a.csv").write_text("label\n1\n")
    (tmp_path / "README.md").write_text("---\nlicense_link: https://x.example\n---\nhttps://y\n")
    with pytest.raises(DataError, match="there is no column 'picture'"):
        load(tmp_path, image="picture", test=0.5)


def load(path, **options):
    return load_data("hugging-face", path=str(path), **options)


@pytest.mark.heavy
def test_cifar10_parquet_gives_the_pixels_of_our_own_reader(require_data):
    file = require_data("cifar10/test.parquet")
    splits = load_data("hugging-face", file.parent.parent, path="cifar10", image="img")
    assert len(splits.train) == 50_000
    part, own = splits.test, read_cifar(file)
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


def pictures(count, changed=-1):
    from PIL import Image

    return [
        Image.fromarray(np.full((4, 4), 3 * k % 256 + (k == changed), np.uint8))
        for k in range(count)
    ]


@pytest.mark.parametrize("beside", [False, True], ids=["in the table", "as files"])
def test_each_picture_of_a_column_matters(tmp_path, beside):
    def digest(changed):
        given: list = pictures(30, changed)
        if beside:
            for k, picture in enumerate(given):
                picture.save(tmp_path / f"{k}.png")
            given = [str(tmp_path / f"{k}.png") for k in range(30)]
        kind = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
        table = datasets.Dataset.from_dict({"img": given, "label": [0, 1] * 15}, features=kind)
        table.save_to_disk(tmp_path / "saved")
        splits = load(tmp_path / "saved", image="img", test=0.2)
        return splits.train.digest(), splits.test.digest()

    before = digest(-1)
    assert digest(-1) == before
    for changed in (1, 17, 29):
        assert digest(changed) != before


@pytest.mark.parametrize("how", ["outside", "link", "above"])
def test_a_picture_outside_the_tables_folder_is_refused(tmp_path, how):
    pictures(1)[0].save(tmp_path / "secret.png")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    path = {"outside": "secret.png", "link": "in/link.png", "above": "in/../secret.png"}[how]
    kind = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
    own = inside / "own.png"
    pictures(1)[0].save(own)
    given = {"img": [str(own), str(tmp_path / path)] * 4, "label": [0, 1] * 4}
    table = datasets.Dataset.from_dict(given, features=kind)
    schema = table.data.schema
    pq.write_table(pa.Table.from_batches(table.data.to_batches(), schema), inside / "t.parquet")
    train = load(inside / "t.parquet", image="img", test=0.25).train
    for use in (train.digest, lambda: [train[id] for id in range(len(train))]):
        with pytest.raises(DataError, match=r"lies outside .*/in, the folder of the table"):
            use()


@pytest.mark.parametrize("form", [None, "torch", "arrow"])
def test_each_value_of_a_table_matters(form, tmp_path):
    def table(changed=-1, rows=3000, column="x"):
        values = [[k / 7 + (k == changed)] * 3 for k in range(rows)]
        words = [None if k % 5 == 0 else f"word {k}" for k in range(rows)]
        labels = [k % 2 for k in range(rows)]
        given = {column: values, "words": words, "label": labels}
        return datasets.Dataset.from_dict(given).with_format(form)

    one = data_digest(table())
    for changed in (0, 1023, 1024, 1500, 2999):
        assert data_digest(table(changed)) != one
    assert data_digest(table(column="y")) != one
    assert data_digest(table().with_format(form, columns=["x"])) != one
    table().save_to_disk(tmp_path / "saved", num_shards=3)
    assert data_digest(datasets.load_from_disk(tmp_path / "saved").with_format(form)) == one
    whole = table()
    some = data_digest(table(rows=3000).select(range(100, 2500)))
    assert some == data_digest(Subset(whole, range(100, 2500)))
    assert some == data_digest(Subset(Subset(whole, range(3000)), np.arange(100, 2500).tolist()))
    assert some == data_digest(whole.select(range(50, 2600)).select(range(50, 2450)))


def test_a_table_larger_than_the_limit_is_read_in_parts(monkeypatch):
    def table(changed):
        given = {"x": [k + (k == changed) for k in range(1 << 15)], "label": [0] * (1 << 15)}
        return datasets.Dataset.from_dict(given)

    whole = data_digest(table(1500))
    assert whole != data_digest(table(-1))
    monkeypatch.setattr("frugalkd.data.probe.WHOLE", table(0).data.nbytes // 4)
    one = data_digest(table(-1))
    assert one == data_digest(table(1500))
    assert one != data_digest(table(500))
    assert one != data_digest(table((1 << 15) - 1))


def test_tables_whose_samples_are_made_by_code_are_read(tmp_path):
    table = datasets.Dataset.from_dict({"x": list(range(90)), "label": [0] * 90})
    one, other = (
        table.with_transform(lambda row, k=k: {"x": [x + (x == k) for x in row["x"]]})
        for k in (-1, 47)
    )
    assert data_digest(one) != data_digest(other)


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

    monkeypatch.setattr("frugalkd.data.images.decoded", fail)
    splits = load(saved, image="picture", label="digit")
    assert isinstance(splits.train, Samples)
    assert len(splits.train.subset(range(10)).labels) == 10


def test_a_missing_column_lists_the_columns(saved):
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


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize(
    ("label", "objective"), [("weight", SquaredError()), ("tags", BinaryCrossEntropy())]
)
def test_labels_of_pictures_may_be_numbers_or_several(saved, in_memory, label, objective):
    """One a picture, as read one by one, in batches, and by a training."""
    train: Any = load(saved, image="picture", label=label, in_memory=in_memory).train
    wanted = {"weight": torch.float32, "tags": torch.bool}[label]
    assert (train.labels.dtype, train.labels.shape) == (wanted, (len(train), len(train.classes)))
    assert train.classes == {"weight": ("weight",), "tags": ("even", "odd", "small")}[label]
    for id in (0, 7):
        assert torch.equal(train[id][1], train.labels[id])
        assert torch.equal(train.view(id, 3)[1], train.labels[id])
    batch = next(iter(torch.utils.data.DataLoader(train, batch_size=5)))
    assert torch.equal(batch[1], train.labels[:5])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, len(train.classes)))
    few = {"training": Training(epochs=1, batch_size=32), "device": "cpu"}
    run = train_teacher(model, train, objective=objective, eval_dataset=train, **few)
    assert run.evaluation is not None
    assert run.evaluation["samples"] == len(train)


def test_a_missing_file_is_no_name_on_the_hub(tmp_path):
    with pytest.raises(DataError, match=r"there\.parquet is neither in"):
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


def two_splits(folder, train, test):
    """Texts with the labels of two splits, each a column of ``Features`` and its values."""
    parts = {}
    for name, (kind, given) in {"train": train, "test": test}.items():
        features = datasets.Features({"body": datasets.Value("string"), "label": kind})
        rows = {"body": ["a text"] * len(given), "label": given}
        parts[name] = datasets.Dataset.from_dict(rows, features=features)
    for name, part in parts.items():
        part.save_to_disk(folder / name)
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    return load(folder, text="body")


def test_labels_of_splits_are_matched_by_their_names(tmp_path):
    kinds = [datasets.ClassLabel(names=names) for names in (["a", "b"], ["b", "a"])]
    splits = two_splits(tmp_path / "one", (kinds[0], [0, 1, 1]), (kinds[1], [0, 1, 1]))
    assert splits.train.classes == splits.test.classes == ("a", "b")
    assert splits.test.labels.tolist() == [1, 0, 0]
    lists = [datasets.Sequence(kind) for kind in kinds]
    splits = two_splits(tmp_path / "several", (lists[0], [[0], [1]]), (lists[1], [[0], []]))
    assert splits.test.labels.tolist() == [[False, True], [False, False]]


def test_a_class_without_a_row_in_the_test_part_may_be_new(tmp_path):
    kinds = [datasets.ClassLabel(names=names) for names in (["a", "b"], ["new", "b", "a"])]
    splits = two_splits(tmp_path / "one", (kinds[0], [0, 1]), (kinds[1], [1, 2]))
    assert splits.test.labels.tolist() == [1, 0]
    lists = [datasets.Sequence(kind) for kind in kinds]
    splits = two_splits(tmp_path / "several", (lists[0], [[0], [1]]), (lists[1], [[1, 2], []]))
    assert splits.test.labels.tolist() == [[True, True], [False, False]]
    with pytest.raises(DataError, match="other classes than the training part"):
        two_splits(tmp_path / "used", (lists[0], [[0], [1]]), (lists[1], [[1], [0]]))
    with pytest.raises(DataError, match="label -1 of row 1 is none of those"):
        two_splits(tmp_path / "hidden", (lists[0], [[0], [1]]), (lists[1], [[1], [-1]]))


def test_lists_of_a_split_may_all_be_empty(tmp_path):
    lists, empty = (datasets.Sequence(datasets.Value(kind)) for kind in ("int64", "null"))
    splits = two_splits(tmp_path / "several", (lists, [[0], [1]]), (empty, [[], []]))
    assert splits.test.labels.tolist() == [[False, False], [False, False]]
    with pytest.raises(DataError, match="write both in the same way"):
        two_splits(tmp_path / "one", (datasets.Value("int64"), [0, 1]), (empty, [[], []]))


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [
        (
            datasets.ClassLabel(names=["a", "c"]),
            [0, 1],
            r"other classes than the training part .*: give both splits the same classes$",
        ),
        (datasets.ClassLabel(names=["b", "a"]), [0, -1], "the test part has a label -1"),
        (datasets.Value("string"), ["0", "1"], "int64 in the training part and string in"),
        (datasets.Value("float32"), [0.5, 1], "int64 in the training part and float in"),
    ],
)
def test_labels_of_another_kind_in_a_split_are_refused(tmp_path, kind, given, says):
    with pytest.raises(DataError, match=says):
        two_splits(tmp_path, (datasets.ClassLabel(names=["a", "b"]), [0, 1]), (kind, given))
