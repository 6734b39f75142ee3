import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import frugalkd
from frugalkd.data import ImageData
from frugalkd.errors import (
    AccessRefused,
    DataError,
    FrugalKDError,
    ImportRefused,
    ModelError,
    RunFolderError,
)
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.execute import teach
from frugalkd.files.tensors import save_weights
from frugalkd.models import build_model, build_text_model, saved
from frugalkd.models.saved import load
from frugalkd.training.evaluation import predict
from toys import same_state

SHAPE, CLASSES = (3, 6, 5), ("ant", "bee", "cat")


def _data(samples: int = 7) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (samples, *SHAPE), dtype=torch.uint8, generator=generator)
    labels = torch.arange(samples) % len(CLASSES)
    return ImageData(images, labels, CLASSES, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def _model() -> nn.Module:
    return build_model("mlp", num_classes=3, in_channels=3, image_size=(6, 5), hidden=[4])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    card = {
        "schema": 1,
        "model": {"name": "mlp", "options": {"hidden": [4]}},
        "weights": "student.safetensors",
        "num_classes": 3,
        "shape": list(SHAPE),
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.25],
        "classes": list(CLASSES),
    }
    (tmp_path / "model.json").write_text(json.dumps(card))
    save_weights(tmp_path / "student.safetensors", _model())
    return tmp_path


def _change(run: Path, **values) -> None:
    card = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps({**card, **values}))


def test_a_loaded_model_predicts_what_the_run_measured(run):
    data, loaded = _data(), frugalkd.load(run)
    expected, _ = predict(loaded.model, data)
    classes, probabilities = loaded.predict(data.images, batch_size=3)
    assert loaded.classes == CLASSES
    assert np.array_equal(probabilities.argmax(axis=1), classes)
    # Batches of another size may round differently.
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_preprocessing_gives_the_very_pixels_of_training(run):
    data, loaded = _data(), load(run)
    x, _ = data.batch(range(len(data)), np.zeros(len(data), dtype=np.int64))
    assert loaded.preprocess is not None
    assert torch.equal(loaded.preprocess(data.images), x)


def test_every_form_of_an_image_gives_the_same_input(run):
    from PIL import Image

    data, preprocess = _data(), load(run).preprocess
    assert preprocess is not None
    expected = preprocess(data.images)
    channels_last = data.images.permute(0, 2, 3, 1).numpy()
    pictures = [Image.fromarray(np.ascontiguousarray(image)) for image in channels_last]
    for form in (
        data.images.numpy(),
        channels_last,
        torch.from_numpy(channels_last),
        pictures,
        list(channels_last),
    ):
        assert torch.equal(preprocess(form), expected)
    for form in (data.images[0], channels_last[0], pictures[0]):
        assert torch.equal(preprocess(form), expected[:1])
    torch.testing.assert_close(preprocess(data.images / 255), expected)


def test_pictures_of_another_size_and_mode_are_resized(run):
    from PIL import Image

    preprocess = load(run).preprocess
    assert preprocess is not None
    assert preprocess(Image.new("L", (40, 30))).shape == (1, *SHAPE)


def test_no_images_give_no_rows(run):
    classes, probabilities = load(run).predict([])
    assert classes.shape == (0,)
    assert probabilities.shape == (0, 3)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 9, 9, 3), np.uint8),
        np.zeros((2, 6, 5), np.uint8),
        np.full((2, *SHAPE), 7.0, np.float32),
        np.zeros((2, *SHAPE), np.int64),
        np.array(["a"]),
        "picture.png",
        np.full((2, *SHAPE), np.nan, np.float32),
    ],
)
def test_images_that_do_not_fit_are_refused(run, images):
    with pytest.raises(DataError) as caught:
        load(run).predict(images)
    assert "\n" not in str(caught.value)


def test_loading_leaves_the_random_stream_alone(run):
    before = torch.get_rng_state()
    load(run)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_missing_or_unfinished_folder_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="no folder"):
        load(tmp_path / "none")
    with pytest.raises(RunFolderError, match="no finished model"):
        load(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"schema": 2},
        {"model": {}},
        {"model": None},
        {"model": {"name": "mpl"}},
        {"model": {"path": "no.such:Net"}},
        {"shape": [3, 6]},
        {"std": [0, 1, 1]},
        {"mean": [10**400, 0, 0]},
        {"num_classes": 4},
        {"weights": "nothing.safetensors"},
        {"weights": None},
        {"classes": None},
    ],
)
def test_a_damaged_card_is_a_typed_error_of_one_line(run, values):
    _change(run, **values)
    with pytest.raises(FrugalKDError) as caught:
        load(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("imports", [(), ("torch.nn:Identity",)])
def test_a_card_imports_nothing_that_is_not_allowed(run, imports, tmp_path):
    """A folder that was downloaded may name anything that can be imported, a shell for one."""
    proof = tmp_path / "proof"
    _change(run, model={"path": "os:system", "options": {"command": f"touch {proof}"}})
    with pytest.raises(ImportRefused) as caught:
        load(run, imports=imports)
    assert not proof.exists()
    assert f"{run / 'model.json'} names the import path 'os:system'" in str(caught.value)
    assert "--import os:system" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["../w.safetensors", "/w.safetensors", "a/../w.safetensors", "..", ".", "", "a\\b", 5, None,
     ["w"], "a\nb", "\ud800", "a" * 256],
)  # fmt: skip
def test_weights_are_a_file_of_the_folder(run, name):
    _change(run, weights=name)
    with pytest.raises(RunFolderError, match="only a file in the same folder is read"):
        load(run)


def test_what_a_card_claims_takes_no_memory(run):
    """No memory is allocated for 10^17 weights: the file's are compared first."""
    _change(run, model={"name": "mlp", "options": {"hidden": [1 << 28, 1 << 28]}})
    with pytest.raises(ModelError, match="does not fit the model"):
        load(run)


@pytest.mark.heavy
def test_a_card_of_many_layers_is_refused_at_once(run):
    """They are not made: the file's tensors say how many there can be."""
    started = time.process_time()
    _change(run, model={"name": "mlp", "options": {"hidden": [1] * 200_000}})
    with pytest.raises(ModelError, match=r"has 4 tensors, and model\.json describes many more"):
        load(run)
    assert time.process_time() - started < 5
    _model()  # and nothing is counted any more
    build_model("mlp", num_classes=3, in_channels=3, image_size=6, hidden=[1] * 1000)


@pytest.mark.parametrize(
    "values",
    [
        {"num_classes": 10**9},
        {"model": {"name": "mlp", "options": {"hidden": [-(10**9)]}}},
        {"model": {"name": "mlp", "options": {"hidden": [[4, {"a": 10**9}]]}}},
    ],
)
def test_no_number_of_a_card_is_beyond_its_weights(run, values):
    _change(run, **values)
    with pytest.raises(ModelError, match=r"model.json says -?1000000000, and no tensor there has"):
        load(run)


@pytest.mark.parametrize("shape", [[3, 1 << 20, 1 << 20], [3, 0, 5], [3, -6, -5]])
def test_the_shape_is_checked_before_the_build(run, shape, monkeypatch):
    monkeypatch.setattr(saved, "build_checked", lambda *_: pytest.fail("built"))
    _change(run, shape=shape)
    with pytest.raises(RunFolderError, match="a shape of"):
        load(run)


@pytest.mark.heavy
def test_buffers_that_are_not_saved_are_bounded(tmp_path):
    """A Swin's masks grow with img_size, and its weights do not."""
    pytest.importorskip("timm", reason="needs timm")
    name = "timm/swin_tiny_patch4_window7_224"
    options: dict[str, Any] = {"embed_dim": 24}
    sizes: dict[str, Any] = {"num_classes": 3, "in_channels": 3, "image_size": 224}
    save_weights(tmp_path / "w.safetensors", build_model(name, **sizes, **options))

    def claim(size):
        model = {"name": name, "options": {**options, "img_size": size}}
        card = {"schema": 1, "weights": "w.safetensors", "model": model, "num_classes": 3}
        card |= {"shape": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}
        (tmp_path / "model.json").write_text(json.dumps(card))

    claim(12_000)
    with pytest.raises(ModelError, match=r"it takes \d,\d+ MiB, and for these weights 2\d\d"):
        load(tmp_path)
    claim(224)
    load(tmp_path)


@pytest.mark.heavy
def test_weights_of_very_many_tensors_build_nothing(run):
    many = {f"layers.{place}.weight": torch.zeros(1) for place in range(10_001)}
    safetensors.torch.save_file(many, run / "student.safetensors")
    with pytest.raises(ModelError, match="has 10,001 tensors: 10,000 at most"):
        load(run)


@pytest.mark.heavy
def test_a_library_builds_with_tensors_of_values(tmp_path):
    """torchvision's RegNets compute their sizes with tensors, and cannot on the meta device."""
    pytest.importorskip("torchvision", reason="needs torchvision")
    name = "torchvision/regnet_x_400mf"
    model = build_model(name, num_classes=3, in_channels=3, image_size=32)
    save_weights(tmp_path / "w.safetensors", model)
    card = {"schema": 1, "weights": "w.safetensors", "model": {"name": name}, "num_classes": 3}
    card |= {"shape": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "model.json").write_text(json.dumps(card))
    assert same_state(load(tmp_path).model, model)
    (tmp_path / "model.json").write_text(json.dumps({**card, "num_classes": 60_000}))
    with pytest.raises(ModelError, match="does not fit the model: fc"):
        load(tmp_path)

    def build():
        return build_model(name, num_classes=3, in_channels=3, image_size=32)

    made = saved.without_memory(build)
    assert made.get_parameter("fc.weight").device.type == "meta"


@pytest.mark.parametrize("content", [b"", b"not json", b"[]"])
def test_a_card_that_is_no_card(run, content):
    (run / "model.json").write_bytes(content)
    with pytest.raises(RunFolderError):
        load(run)


def test_cut_off_weights_are_refused(run):
    weights = run / "student.safetensors"
    sound = weights.read_bytes()
    advice = "cannot be read as weights: .+; take a sound copy, or train it again$"
    for kept in (0, 5, 100, len(sound) // 2, len(sound) - 1):
        weights.write_bytes(sound[:kept])
        with pytest.raises(ModelError, match=advice):
            load(run)


def test_a_flipped_bit_of_the_weights_is_found(run):
    """In the tensors, names and shapes, at every 11th byte."""
    weights, model = run / "student.safetensors", load(run).model
    sound = weights.read_bytes()
    places, refused = range(0, len(sound), 11), 0
    for place in places:
        weights.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        found = None
        with suppress(ModelError):
            found = load(run).model
        # A flip in the checksum's name gives a file without a checksum.
        assert found is None or same_state(found, model)
        refused += found is None
    data = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert refused > (data + 100) / 11
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(ModelError, match="weights: its checksum is wrong; take a sound copy"):
        load(run)


def test_a_run_leaves_weights_that_are_checked(tmp_path):
    settings = {"data.train_size": 60, "teacher.training.epochs": 1}
    teach(override(load_recipe("digits"), settings), tmp_path)
    weights = tmp_path / "teacher.safetensors"
    load(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    with pytest.raises(ModelError, match="its checksum is wrong"):
        load(tmp_path)


def test_weights_of_others_have_no_checksum(run):
    safetensors.torch.save_file(_model().state_dict(), run / "student.safetensors")
    load(run)


def test_a_run_on_own_data_has_no_preprocessing(run):
    card = json.loads((run / "model.json").read_text())
    own = {"schema": 1, "weights": card["weights"], "model": {"path": "torch.nn:Identity"}}
    (run / "model.json").write_text(json.dumps(own))
    safetensors.torch.save_file({}, run / "student.safetensors")
    loaded = load(run, imports=["torch.nn:Identity"])
    assert loaded.preprocess is None
    with pytest.raises(ModelError, match="data set of your own"):
        loaded.predict(_data().images)


def test_a_tokenizer_folder_is_read_only_where_it_is_named(tmp_path):
    """A card from elsewhere may name any folder of this machine."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "words"
    words = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "a", "b"])}
    transformers.BertTokenizer(vocab=words).save_pretrained(folder)
    model = build_text_model("text-cnn", num_classes=3, vocabulary=4, buckets=8)
    save_weights(tmp_path / "w.safetensors", model)
    card = {"schema": 1, "weights": "w.safetensors", "num_classes": 3, "vocabulary": 4}
    card |= {"model": {"name": "text-cnn", "options": {"buckets": 8}}}
    card |= {"tokenizer": str(folder), "max_length": 5}
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(
        AccessRefused, match=rf"the tokenizer in the folder {folder}: .*--tokenizer"
    ):
        load(tmp_path).predict(["a b"])
    assert len(load(tmp_path, tokenizer=str(folder)).predict(["a b"])[0]) == 1
    assert len(load(tmp_path, tokenizer="words").predict(["a b"])[0]) == 1
