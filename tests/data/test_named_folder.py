from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from frugalkd.data import Augmentation, ImageData, load_data
from frugalkd.data.images import LazyImages, opened
from frugalkd.errors import DataError, LedgerError, RunFolderError, TargetsError
from frugalkd.teachers import StoredTargets
from frugalkd.training.api import distill, train_teacher
from frugalkd.training.settings import Training
from toys import grouped

Image = pytest.importorskip("PIL.Image")

TRAIN, TEST = 60, 20


@pytest.fixture(scope="module")
def digits():
    """scikit-learn's digits as they come, cut to the first 60 and 20."""
    splits = load_data("digits")
    return splits.train.subset(range(TRAIN)), splits.test.subset(range(TEST))


@pytest.fixture(scope="module")
def written(digits, tmp_path_factory) -> Path:
    """The same as PNG files in train/<class>/ and test/<class>/."""
    folder = tmp_path_factory.mktemp("pictures") / "digits"
    for name, part in zip(("train", "test"), digits, strict=True):
        for row, (image, label) in enumerate(zip(part.images, part.labels.tolist(), strict=True)):
            place = folder / name / f"digit {label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(place / f"{row:04}.png")
    return folder


@pytest.fixture
def mine(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "digits"))


def load(folder: Path, **options):
    splits = load_data("image-folder", folder.parent, path=folder.name, **options)
    assert isinstance(splits.train, LazyImages)
    assert isinstance(splits.test, LazyImages)
    return splits.train, splits.test


def in_order(part: ImageData) -> ImageData:
    """As folders of classes hold them: by class, then by name."""
    return part.subset(np.argsort(part.labels.numpy(), kind="stable"))


def test_the_pictures_of_the_folders_are_the_samples(written, digits):
    for part, given in zip(load(written, channels=1), digits, strict=True):
        own = in_order(given)
        assert part.classes == tuple(f"digit {label}" for label in range(10))
        assert part.shape == (1, 8, 8)
        assert torch.equal(part.labels, own.labels)
        assert torch.equal(part.pixels(torch.arange(len(part))), own.images)


def test_views_are_those_of_pictures_in_memory(written):
    train, _ = load(written, channels=1)
    augmented = train.with_augmentation(Augmentation(crop=2, flip=True), seed=7)
    kept = augmented.in_memory()
    assert not torch.equal(augmented.view(3, 1)[0], augmented.view(3, 2)[0])
    for id, view in [(0, 0), (3, 1), (3, 2), (59, 10**9)]:
        x, y = augmented.view(id, view)
        assert torch.equal(x, kept.view(id, view)[0])
        assert y == kept.labels[id]


def test_a_subset_renumbers(written):
    train, _ = load(written)
    part = train.subset([5, 2, 9])
    assert torch.equal(part[1][0], train[2][0])
    assert part.subset([2]).labels.tolist() == [int(train.labels[9])]
    assert part.digest() == train.subset([5, 2, 9]).digest() != train.subset([2, 5, 9]).digest()
    with pytest.raises(IndexError, match=r"0 \.\. 2"):
        part[3]


def test_what_is_kept_in_memory_fits_there(written, monkeypatch):
    monkeypatch.setattr("frugalkd.data.images.machine_bytes", lambda: 10_000)
    with pytest.raises(DataError, match=r"in_memory would take .* GB, and this machine has 0\.0"):
        load(written, size=100, in_memory=True)
    load(written, size=100)


def test_a_large_first_picture_sets_no_size(tmp_path):
    for kind in "ab":
        (tmp_path / kind).mkdir()
        Image.new("L", (5000, 2)).save(tmp_path / kind / "0.png")
    with pytest.raises(DataError, match="a picture of 5000 x 2: set size"):
        load(tmp_path, test=0.5)
    load(tmp_path, test=0.5, size=4)


@pytest.mark.parametrize("encode", [Path, Path.read_bytes])
def test_a_picture_is_no_bomb(tmp_path, encode):
    """64 million pixels in a file of 60 kB are more than 200 times that; 36 million may be."""
    for side in (6000, 8000):
        Image.new("1", (side, side)).save(tmp_path / f"{side}.png")
    with opened(encode(tmp_path / "6000.png")) as image:
        assert image.size == (6000, 6000)
    with pytest.raises(DataError, match=r"64,000,000 pixels in .* bytes: too many"):
        opened(encode(tmp_path / "8000.png")).__enter__()


def test_colour_and_size_are_as_given(written):
    train, _ = load(written, size=[5, 12])
    x, _ = train[0]
    assert x.shape == train.shape == (3, 5, 12)
    picture = Image.open(min((written / "train" / "digit 0").iterdir())).convert("RGB")
    pixels = np.array(picture.resize((12, 5), Image.Resampling.BILINEAR)) / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(x.permute(1, 2, 0).numpy(), expected, atol=1e-6)
    train, _ = load(written, channels=1, mean=0, std=2)
    assert (train.mean, train.std) == ((0,), (2,))
    train, _ = load(written, channels=1, mean=[0.1], std=[2.0])
    assert torch.allclose(train[0][0] * 2 + 0.1, train.pixels(torch.tensor([0]))[0] / 255)


def test_a_part_is_held_out_of_one_folder(written):
    train, test = load(written, test=0.3)
    assert (len(train), len(test)) == (42, 18)
    alone, eval_dataset = load(written / "train", test=0.3)
    assert alone.digest() == train.digest()
    assert eval_dataset.digest() == test.digest()
    assert load(written, test=0.3)[1].digest() == test.digest()


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_each_replaced_picture_is_noticed(mine):
    before = load(mine)[0].digest()
    assert load(mine)[0].digest() == before
    for file in files_of(mine / "train")[::7]:
        content, about = file.read_bytes(), file.stat()
        Image.fromarray(255 - np.array(Image.open(file))).save(file)
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
        assert load(mine)[0].digest() != before, file
        file.write_bytes(content)
    assert load(mine)[0].digest() == before


def test_names_and_classes_matter_the_folder_does_not(mine):
    before = load(mine)[0].digest()
    moved = mine.rename(mine.with_name("elsewhere"))
    assert load(moved)[0].digest() == before
    (moved / "train" / "digit 0").rename(moved / "train" / "digit :")
    assert load(moved, test=0.5)[0].digest() != before
    (moved / "train" / "digit :").rename(moved / "train" / "digit 0")
    assert load(moved)[0].digest() == before
    first = files_of(moved / "train")[0]
    first.rename(first.with_name("!.png"))
    assert load(moved)[0].digest() != before


def test_what_was_made_with_other_pictures_is_refused(mine, tmp_path):
    def learner(seed):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    train, _ = load(mine, channels=1)
    few = {"training": Training(epochs=2, batch_size=16), "device": "cpu"}
    teacher = learner(0)
    ledger = train_teacher(teacher, train, **grouped(folder=tmp_path / "checkpoints", **few)).ledger
    stored = StoredTargets.fill(teacher, train, tmp_path / "store")
    file = files_of(mine / "train")[30]
    Image.fromarray(255 - np.array(Image.open(file))).save(file)
    changed, _ = load(mine, channels=1)
    with pytest.raises(RunFolderError, match="other data set"):
        train_teacher(
            learner(0), changed, **grouped(folder=tmp_path / "checkpoints", resume=True, **few)
        )
    with pytest.raises(LedgerError, match="other data"):
        distill(
            learner(1),
            changed,
            **grouped(teacher=teacher, ledger=ledger, mode="significance", **few),
        )
    with pytest.raises(TargetsError, match="another data set"):
        distill(learner(1), changed, **grouped(teacher=stored, mode="vanilla", **few))


def test_a_picture_that_is_gone_is_named(mine):
    train, _ = load(mine)
    files_of(mine / "train")[3].unlink()
    with pytest.raises(DataError, match=r"\.png cannot be read: No such file"):
        train.digest()


def test_it_can_be_sent_to_worker_processes(written):
    train, _ = load(written)
    sent = pickle.loads(pickle.dumps(train))  # noqa: S301
    for id in (7, 1, 30):
        assert torch.equal(sent[id][0], train[id][0])
    assert torch.equal(sent.labels, train.labels)


def test_what_is_no_picture_is_named_in_one_error(mine):
    (mine / "train" / "digit 1" / "notes.txt").write_text("seven")
    (mine / "train" / "digit 2" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (mine / "test" / "digit 3" / "empty.jpg").write_bytes(b"")
    (mine / "train" / "digit 3" / ".hidden").write_text("")
    (mine / "train" / "README.md").write_text("is in no class")
    with pytest.raises(DataError, match=r"3 of 83 files are not readable") as caught:
        load(mine)
    for name in ("notes.txt", "torn.png", "empty.jpg"):
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hidden_folders_and_those_of_archives_are_left_out(mine):
    before = load(mine)[0].digest()
    for name in ("train/digit 1/.thumbs", "train/digit 1/__MACOSX", "train/__MACOSX"):
        (mine / name).mkdir()
        shutil.copy(files_of(mine / "test")[0], mine / name / "0.png")
    train, _ = load(mine)
    assert (len(train), len(train.classes), train.digest()) == (TRAIN, 10, before)


def test_a_class_may_be_called_train(mine):
    (mine / "train" / "digit 1").rename(mine / "train" / "train")
    train, _ = load(mine / "train", test=0.3)
    assert train.classes[-2:] == ("digit 9", "train")


def test_a_torn_picture_is_named_when_it_is_read(mine):
    file = sorted((mine / "train" / "digit 0").iterdir())[0]
    file.write_bytes(file.read_bytes()[:-30])
    train, _ = load(mine)
    with pytest.raises(DataError, match=file.name):
        train[0]


def test_a_bomb_is_not_decoded(mine):
    Image.new("1", (10_000, 10_000)).save(mine / "train" / "digit 0" / "bomb.png")
    with pytest.raises(DataError, match=r"bomb\.png \(too many pixels\)"):
        load(mine)


def test_pictures_of_other_kinds_are_converted(mine):
    place = mine / "train" / "digit 0"
    pixels = np.random.default_rng(0).integers(256, size=(8, 8, 4), dtype=np.uint8)
    rgba = Image.fromarray(pixels)
    rgba.save(place / "a.webp", lossless=True, exact=True)
    rgba.quantize(8).save(place / "b.gif")
    rgba.convert("CMYK").save(place / "c.tiff")
    turned = Image.fromarray(np.repeat(np.arange(8, dtype=np.uint8)[:, None] * 30, 8, axis=1))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    turned.save(place / "d.jpg", quality=100, exif=exif)
    train, _ = load(mine)
    names = sorted(file.name for file in place.iterdir())
    x = train.pixels(torch.tensor([names.index("d.jpg")]))[0, 0].int()
    assert (x[:, 0] - x[:, 7]).min() > 180, "upright, it goes from bright to dark along a row"
    rows = torch.tensor([names.index(name) for name in ("a.webp", "b.gif", "c.tiff")])
    assert torch.equal(train.pixels(rows)[0], torch.from_numpy(pixels[..., :3]).permute(2, 0, 1))


def test_sixteen_bits_are_refused(mine):
    wide = Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16))
    wide.save(mine / "train" / "digit 0" / "0.png")
    train, _ = load(mine)
    with pytest.raises(DataError, match="not of 8 bits"):
        train[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "nowhere"}, "no folder .*nowhere"),
        ({"test": "validation"}, "no folder .*validation"),
        ({"test": 2}, "between 0 and 1"),
        ({"channels": 4}, "channels is 4"),
        ({"size": [8]}, r"size is \[8\]"),
        ({"size": 8.5}, r"size is 8\.5"),
        ({"mean": [0.5]}, "one number for each of the 3 channels"),
    ],
)
def test_refused_in_one_line(written, options, message):
    with pytest.raises(DataError, match=message) as caught:
        load_data("image-folder", written.parent, **{"path": written.name, **options})
    assert "\n" not in str(caught.value)


def test_a_class_of_the_test_part_alone_is_refused(mine):
    (mine / "test" / "digit 00").mkdir()
    with pytest.raises(DataError, match="is not a class of train: did you mean digit 0"):
        load(mine)
