"""Several teachers in a recipe: ``student.teachers``."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from frugalkd.data.class_names import Match
from frugalkd.errors import TargetsError
from frugalkd.models.settings import ModelSettings
from frugalkd.runtime.sections import Strict
from frugalkd.teachers.combining import Combine, shares_of
from frugalkd.teachers.fidelity import Fidelity

_FOLDER_NAME = re.compile(r"\w[\w .:+-]{0,99}")


def folder_names(section: dict[str, Any]) -> dict[str, Any]:
    """``section``, if all its keys can be the names of folders inside a comparison's."""
    for name in section:
        if not _FOLDER_NAME.fullmatch(name):
            raise ValueError(
                f"{name[:100]!r} cannot be a name here: folders are called so, and up to 100 "
                "letters, digits, spaces and _ . : + - are allowed, a letter or digit first"
            )
    return section


class OneOfSeveral(Strict):
    """One of several teachers: a run's folder, a store of its soft targets, or pretrained weights;
    where none of these is given, the run's own teacher."""

    folder: str | None = Field(None, description="made by 'frugalkd teach' or 'distill'")
    store: str | None = Field(
        None, description="made by 'frugalkd store': its soft targets alone, without a model"
    )
    weights: str | None = Field(
        None, description="a pretrained state dict of model (.safetensors, or .pt without pickle)"
    )
    model: ModelSettings | None = Field(
        None, description="of weights; or what a folder's model.json may name to import"
    )
    kind: Literal["stored", "live", "ema"] | None = Field(
        None, description="in place of student.targets.kind"
    )
    classes: Match | None = Field(None, description="in place of student.targets.classes")
    weight: float | None = Field(None, gt=0, description="its share of 1")

    @model_validator(mode="after")
    def _one_source(self) -> OneOfSeveral:
        if sum(source is not None for source in (self.folder, self.store, self.weights)) > 1:
            raise ValueError("give one of folder, store and weights, or none for the run's teacher")
        if self.weights is not None and self.model is None:
            raise ValueError("weights are of a model: give model, too")
        if self.model is not None and self.weights is None and self.folder is None:
            raise ValueError("a model without weights knows nothing: give weights, or a folder")
        if self.store is not None and self.kind == "live":
            raise ValueError("a store has no model to ask live: give a folder")
        if self.kind == "ema" and (self.folder or self.store or self.weights):
            raise ValueError("the student's average (ema) has no folder, store or weights")
        return self

    @property
    def is_own(self) -> bool:
        """Whether it is the run's own teacher."""
        named = self.folder or self.store or self.weights
        return named is None and self.kind != "ema"


class Several(Strict):
    """Several teachers as one (docs/teachers.md)."""

    combine: Combine = Field(
        "mean",
        description="their mean; weighted, by each one's weight; by confidence in a sample's "
        "label; or one at random a step",
    )
    average: Literal["logits", "softmax"] = Field(
        "logits", description="what is averaged; softmax: at the objective's temperature"
    )
    of: Annotated[dict[str, OneOfSeveral], AfterValidator(folder_names)] = Field(
        description="two or more, by name"
    )

    @model_validator(mode="after")
    def _possible(self) -> Several:
        if len(self.of) < 2:
            raise ValueError("of: give two teachers or more")
        if self.combine == "random" and self.average == "softmax":
            raise ValueError("combine: random takes one of them, and averages nothing")
        given = sum(each.weight is not None for each in self.of.values())
        if self.combine in ("mean", "confidence") and given:
            raise ValueError(f"combine: {self.combine} has no use for a weight: set weighted")
        if given not in (0, len(self.of)) or (self.combine == "weighted" and not given):
            raise ValueError("of: give each teacher its weight, a share of 1")
        try:
            shares_of(self.weights, len(self.of))
        except TargetsError as error:
            raise ValueError(f"of: {error}") from None
        return self

    @property
    def weights(self) -> list[float] | None:
        """Of each in turn, where they have some."""
        said = [each.weight for each in self.of.values() if each.weight is not None]
        return said or None

    @property
    def reads_logits(self) -> bool:
        """Whether it takes whole logits of each to combine them."""
        by_logits = self.combine != "random" and self.average == "logits"
        return by_logits or self.combine == "confidence"

    @property
    def keeps(self) -> Fidelity:
        """The most that the combination says of the logits."""
        return Fidelity.SOFTMAX if self.average == "softmax" else Fidelity.LOGITS
