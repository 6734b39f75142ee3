"""Settings have the types that they are declared with: True is not a number."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from types import NoneType
from typing import Any, ClassVar, Literal, Protocol, get_args

import numpy as np
import pytest
import torch

from frugalkd import Augmentation, DataLoading, Selection, distill
from frugalkd.errors import SettingError
from frugalkd.experiments.tracking.trackers import TRACKERS
from frugalkd.objectives import OBJECTIVES, Ramp
from frugalkd.policies import POLICIES, RandomSubset, Ungated
from frugalkd.runtime.settings import Settings, types_of
from frugalkd.teachers.encodings import Sampled, TopK
from frugalkd.training.settings import Checkpointing, Optimizer, Schedule, Training
from toys import Ids, images, net

NEEDED = {"student": "0", "teacher": "0", "start": 1.0, "end": 2.0, "k": 3}
"""Settings without defaults."""
CLASSES: list[type[Settings]] = [
    Training, Optimizer, Schedule, Checkpointing, Augmentation, Ramp, Sampled, TopK,
    *POLICIES.values(), *OBJECTIVES.values(), *TRACKERS.values(),
]  # fmt: skip
NUMBERS = [
    pytest.param(cls, name, id=f"{cls.__name__}.{name}")
    for cls in CLASSES
    for name, kind in types_of(cls).items()
    if any(number in str(kind) for number in ("int", "float"))
]


def make(cls: type, **settings: Any) -> Any:
    needed = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory]
    return cls(**{name: NEEDED[name] for name in needed} | settings)


def test_every_class_of_settings_is_one():
    assert all(issubclass(cls, Settings) for cls in CLASSES)
    assert len(NUMBERS) > 100


@pytest.mark.parametrize(("cls", "name"), NUMBERS)
def test_no_boolean_text_or_nan_is_a_number(cls, name):
    made = make(cls)
    for value in (True, "1", math.nan, math.inf, [], torch.optim.Adam):
        if value == [] and "tuple" in str(types_of(cls)[name]):
            continue
        with pytest.raises(SettingError, match=rf"^{name} must be ") as caught:
            make(cls, **{name: value})
        assert "\n" not in str(caught.value)
    make(cls, **{name: getattr(made, name)})


def strange(kind: Any) -> list[Any]:
    """Values that are none of a declared type, numbers apart."""
    inside = get_args(kind)
    values: list[Any] = [object(), {"a": 1}, torch.optim.Adam]
    if str not in (kind, *inside):
        values += ["none of them", "3"]
    return values if NoneType in inside else [*values, None]


@pytest.mark.parametrize("cls", CLASSES)
def test_no_strange_object_nor_choice_is_a_setting(cls):
    for name, kind in types_of(cls).items():
        for value in strange(kind):
            with pytest.raises(SettingError, match=rf"^{name} must be ") as caught:
                make(cls, **{name: value})
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 250


def test_other_types_are_named():
    for wrong, says in {
        "optimizer": (
            torch.optim.Adam,
            "must be an Optimizer, not <class 'torch.optim.adam.Adam'>",
        ),
        "precision": ("fp16", "must be fp32 or bf16, not 'fp16'"),
        "max_grad_norm": ("1", "must be a finite number or None, not '1'"),
        "compile": (1, "must be True or False, not 1"),
        "batch_size": (3.0, r"must be a whole number, not 3\.0"),
    }.items():
        value, message = says
        with pytest.raises(SettingError, match=rf"^{wrong} {message}$"):
            Training(**{wrong: value})  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingError, match=r"betas must be a tuple of a finite number, a finite"):
        Optimizer(betas=(0.9,))  # pyright: ignore[reportArgumentType]


def test_a_whole_number_that_no_float_holds_is_no_number():
    with pytest.raises(SettingError, match=r"^lr must be a finite number, not 1000"):
        Optimizer(lr=10**400)
    assert RandomSubset(counts=(10**400,)).counts == (10**400,)


def test_numbers_of_numpy_and_whole_ones_are_numbers():
    made = Training(epochs=np.float32(2), batch_size=np.int64(8), max_grad_norm=3)  # pyright: ignore
    assert (made.epochs, made.batch_size) == (2, 8)
    Optimizer(betas=[0.8, 0.9])  # pyright: ignore[reportArgumentType]


class Speaking(Protocol):
    def speak(self) -> str: ...


@dataclass(frozen=True)
class Own(Ungated):
    part: float = 0.5
    kind: Literal["a", "b"] = "a"
    anything: Any = None
    speaking: Speaking | None = None
    seen: ClassVar[list] = []

    def __post_init__(self):
        self.seen.append(self.part)

    def plan(self, ledger, pool, at):
        raise NotImplementedError


def test_a_policy_of_your_own_is_checked_first():
    made: Any = object()
    assert Own(0.3, "b", made, made).seen == [0.3]
    with pytest.raises(SettingError, match=r"^part must be a finite number, not True"):
        Own(True)
    assert Own.seen == [0.3]


def test_names_that_no_module_knows_are_not_compared():
    class Kind:
        pass

    @dataclass(frozen=True)
    class Local(Settings):
        kind: Kind
        part: float = 1.0

    assert Local(Kind(), True).part is True


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": True},
        {"batch_size": 2.0},
        {"seed": True},
        {"seed": "1"},
    ],
)
def test_arguments_of_a_selection_are_numbers(wrong):
    name = next(iter(wrong))
    with pytest.raises(SettingError, match=rf"^{name} must be "):
        Selection(Ids([0, 1]), **{"epochs": 1, "batch_size": 1, **wrong})
    with pytest.raises(SettingError, match=r"^length_bucket_batches must be a whole number"):
        DataLoading(length_bucket_batches=None)  # pyright: ignore[reportArgumentType]


def test_a_seed_is_a_number():
    with pytest.raises(SettingError, match="seed must be a whole number, not True"):
        distill(net(), images(), teacher=net(1), seed=True, device="cpu")
