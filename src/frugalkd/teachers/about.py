"""What soft targets belong to: all that decides the teacher's outputs for a sample."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn
from torch.utils.data import Dataset

from frugalkd.data.class_names import class_names, class_order, names_text
from frugalkd.data.images import Pictures
from frugalkd.data.probe import data_digest
from frugalkd.data.text import TextData
from frugalkd.errors import FrugalKDWarning, TargetsError
from frugalkd.models.identity import differences, identity, this_torch
from frugalkd.models.origin import origin_of

if TYPE_CHECKING:
    from frugalkd.teachers.live import ModelTeacher


def describe(teacher: nn.Module | None, dataset: Dataset) -> dict[str, str]:
    """The identity of the teacher (:func:`frugalkd.models.identity.identity`), and of the data:
    digest and augmentation; where they have some, normalisation, tokenizer and class names."""
    augmentation = getattr(dataset, "augmentation", None)
    about = {
        **({} if teacher is None else identity(teacher)),
        "data set": data_digest(dataset),
        "augmentation": f"{augmentation} seed {getattr(dataset, 'seed', None)}",
    }
    if names := class_names(dataset):
        about["classes"] = names_text(names)
    if isinstance(dataset, Pictures):
        about["normalisation"] = f"mean {dataset.mean} std {dataset.std}"
    if isinstance(dataset, TextData):
        tokens = dataset.tokens
        about["tokenizer"] = f"{tokens.tokenizer}, at most {tokens.max_length} tokens"
    return about


def describe_live(live: ModelTeacher, dataset: Dataset) -> dict[str, str]:
    """:func:`describe`, and the teacher's precision and torch, which decide the last digits."""
    return {**describe(None, dataset), **live.about, **this_torch()}


def check_about(about: Mapping[str, str], teacher: nn.Module | None, dataset: Dataset) -> None:
    """Refuse targets that belong to another ``teacher`` (None: not checked) or other data, as
    :func:`describe` names them. Raises TargetsError, naming what differs."""
    others = differences(about, describe(teacher, dataset), "the stored soft targets")
    if others:
        raise TargetsError(
            f"the stored soft targets belong to another {' and another '.join(others)}: delete "
            "them, or name the ones that belong to this run"
        )


def check_origin(teacher: nn.Module, dataset: Dataset) -> None:
    """Refuse data whose classes have other names than the teacher's, or another order, or whose
    samples are prepared otherwise than its training data, as far as both are known. Raises
    TargetsError, naming what differs; another tokenizer of as many tokens is a FrugalKDWarning."""
    origin = origin_of(teacher)
    class_order(origin.classes, class_names(dataset), "same")
    if isinstance(dataset, Pictures) and origin.mean:
        there, here = (origin.mean, origin.std), (dataset.mean, dataset.std)
        if there != here:
            raise TargetsError(
                f"the teacher was trained on pictures of mean {there[0]} and std {there[1]}, and "
                f"these are normalised by {here[0]} and {here[1]}: give the data the teacher's "
                "mean and std"
            )
    if isinstance(dataset, TextData) and origin.vocabulary:
        tokens = dataset.tokens
        message = (
            f"the teacher was trained on texts of the tokenizer {origin.tokenizer!r} "
            f"({origin.vocabulary} tokens), and these are of {tokens.tokenizer!r} "
            f"({tokens.vocabulary} tokens)"
        )
        if origin.vocabulary != tokens.vocabulary:
            raise TargetsError(f"{message}: give the data the teacher's tokenizer")
        if origin.tokenizer != tokens.tokenizer:
            warnings.warn(message, FrugalKDWarning, stacklevel=3)
