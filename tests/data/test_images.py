from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalkd.data import Augmentation, ImageData
from frugalkd.errors import DataError, SettingError
from frugalkd.runtime.draws import hash64, stream

N, SIDE = 11, 6


def make(channels: int = 1, augmentation: Augmentation | None = None, seed: int = 0) -> ImageData:
    generator = torch.Generator().manual_seed(1)
    shape = (N, channels, SIDE, SIDE + 1)
    return ImageData(
        torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator),
        torch.arange(N) % 3,
        ("a", "b", "c"),
        mean=(0.25, 0.5, 0.75)[:channels],
        std=(0.5, 0.25, 0.3)[:channels],
        augmentation=augmentation,
        seed=seed,
    )


augmentations = st.builds(Augmentation, crop=st.integers(0, 8), flip=st.booleans())
id_lists = st.lists(st.integers(0, N - 1), min_size=1, max_size=2 * N)


@settings(deadline=None)
@given(augmentations, st.sampled_from([1, 3]), st.integers(0, 2**40), id_lists, st.data())
def test_a_batch_holds_the_pixels_of_the_views(augmentation, channels, seed, ids, draw):
    data = make(channels, augmentation, seed)
    views = draw.draw(
        st.lists(st.integers(0, 2**40), min_size=len(ids), max_size=len(ids)), label="views"
    )
    x, y = data.batch(np.array(ids), np.array(views))
    assert x.shape == (len(ids), *data.shape)
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    for row, (id, view) in enumerate(zip(ids, views, strict=True)):
        alone, label = data.view(id, view)
        assert torch.equal(x[row], alone)
        assert int(y[row]) == label


@settings(deadline=None)
@given(augmentations, st.integers(0, 2**40), st.integers(0, N - 1), st.integers(0, 100))
def test_a_view_is_the_crop_and_flip_that_its_bits_say(augmentation, seed, id, view):
    data = make(3, augmentation, seed)
    bits = int(hash64(seed, stream("augmentation"), id, view)[0])
    crop, span = augmentation.crop, 2 * augmentation.crop + 1
    top, left = ((bits >> shift) % 2**21 * span >> 21 for shift in (0, 21))
    padded = np.pad(data.images[id].numpy(), ((0, 0), (crop, crop), (crop, crop)))
    pixels = padded[:, top : top + SIDE, left : left + SIDE + 1]
    if augmentation.flip and bits >> 63:
        pixels = pixels[:, :, ::-1]
    mean, std = np.array(data.mean)[:, None, None], np.array(data.std)[:, None, None]
    expected = (pixels / 255 - mean) / std
    np.testing.assert_allclose(data.view(id, view)[0].numpy(), expected, atol=1e-6)


def test_offsets_and_flips_are_uniform():
    corner = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    corner[0, 0, 2, 2] = 255
    data = ImageData(
        corner,
        torch.zeros(1, dtype=torch.int64),
        ("only",),
        mean=(0.0,),
        std=(1.0,),
        augmentation=Augmentation(crop=2),
    )
    x, _ = data.batch(np.zeros(20_000), np.arange(20_000))
    # The white pixel lands on each of the 25 places equally often, and never leaves.
    assert torch.allclose(x.mean((0, 1)), torch.full((5, 5), 1 / 25), atol=0.005)
    plain = make(1, Augmentation(flip=True))
    x, _ = plain.batch(np.zeros(10_000), np.arange(10_000))
    same = (x == make().view(0, 0)[0]).flatten(1).all(1)
    assert abs(same.double().mean() - 0.5) < 0.02


def test_without_augmentation_every_view_is_the_image():
    data = make(3)
    assert torch.equal(data.view(4, 0)[0], data.view(4, 99)[0])
    assert torch.equal(data[4][0], data.view(4, 0)[0])
    assert data[4][1] == 1


def test_reading_leaves_images_and_random_streams_alone():
    data = make(1, Augmentation(crop=2, flip=True))
    before, torch_state = data.digest(), torch.get_rng_state()
    numpy_state = np.random.get_state(legacy=False)["state"]["key"].copy()
    data.batch(torch.arange(N), torch.arange(N))
    assert data.digest() == before
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state(legacy=False)["state"]["key"] == numpy_state).all()


def test_ids_may_be_lists_read_only_arrays_or_tensors():
    data = make()
    frozen = np.array([3, 1])
    frozen.flags.writeable = False
    batches = [data.batch(ids, [0, 0])[0] for ids in ([3, 1], frozen, torch.tensor([3, 1]))]
    assert torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[2])


def test_an_empty_batch():
    x, y = make(1, Augmentation(crop=1, flip=True)).batch([], [])
    assert x.shape == (0, 1, SIDE, SIDE + 1)
    assert y.shape == (0,)


@pytest.mark.parametrize("id", [-1, N])
def test_ids_out_of_range(id):
    data = make()
    with pytest.raises(IndexError, match=r"0 \.\. 10"):
        data.batch([0, id], [0, 0])
    with pytest.raises(IndexError):
        data[id]
    with pytest.raises(IndexError):
        data.subset([0, id])


def test_iteration_ends():
    assert len(list(iter(make()))) == N  # pyright: ignore[reportArgumentType]


def test_a_subset_is_augmented_by_its_new_ids():
    data = make(1, Augmentation(crop=2, flip=True), seed=5)
    part = data.subset([7, 2])
    assert len(part) == 2
    assert torch.equal(part.images, data.images[[7, 2]])
    assert part.labels.tolist() == [1, 2]
    assert (part.augmentation, part.seed) == (data.augmentation, 5)
    # Position 0 in the subset draws what id 0 draws in the whole, on other pixels.
    moved = data.subset([7, *range(1, N)])
    assert torch.equal(part.view(0, 3)[0], moved.view(0, 3)[0])


def test_with_augmentation_shares_memory():
    data = make()
    other = data.with_augmentation(Augmentation(crop=1), seed=3)
    assert other.images.data_ptr() == data.images.data_ptr()
    assert (other.augmentation, other.seed) == (Augmentation(crop=1), 3)


def test_seeds_give_other_views():
    views = [make(1, Augmentation(crop=3), seed).batch(range(N), [0] * N)[0] for seed in (0, 1)]
    assert not torch.equal(views[0], views[1])


def test_digest():
    data = make()
    assert data.digest() == make(1, Augmentation(crop=3), seed=9).digest()
    changed = make()
    changed.images[5, 0, 0, 0] ^= 1
    relabelled = make()
    relabelled.labels[5] = 0
    digests = {
        data.digest(),
        changed.digest(),
        relabelled.digest(),
        data.subset(range(10)).digest(),
    }
    assert len(digests) == 4
    assert len(data.digest()) == 64


def test_properties():
    data = make(3)
    assert (data.num_classes, data.shape, len(data)) == (3, (3, SIDE, SIDE + 1), N)


GOOD = {
    "images": torch.zeros(2, 1, 3, 3, dtype=torch.uint8),
    "labels": torch.tensor([0, 1]),
    "classes": ("a", "b"),
    "mean": (0.0,),
    "std": (1.0,),
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": torch.zeros(2, 1, 3, 3)}, r"images are torch\.float32 \(2, 1, 3, 3\)"),
        ({"images": torch.zeros(2, 3, 3, dtype=torch.uint8)}, "give uint8"),
        ({"labels": torch.tensor([0])}, "1 labels for 2 images: give one for each"),
        ({"labels": torch.tensor([0.0, 1.0])}, "give int64"),
        ({"labels": torch.tensor([0, 2])}, r"labels lie in 0 \.\. 2"),
        ({"labels": torch.tensor([-1, 1])}, r"labels lie in -1 \.\. 1"),
        ({"mean": (0.0, 0.0)}, "each of the 1 channels"),
        ({"std": (0.0,)}, "std above 0"),
    ],
)
def test_wrong_data_are_refused_in_one_line(wrong, message):
    with pytest.raises(DataError, match=message) as caught:
        ImageData(**(GOOD | wrong))
    assert "\n" not in str(caught.value)


def test_a_negative_crop_is_refused():
    with pytest.raises(SettingError, match="crop must be 0 or more, not -1"):
        Augmentation(crop=-1)
