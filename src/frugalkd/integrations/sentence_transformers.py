"""frugalkd inside sentence-transformers' trainer: a student learns a teacher's embeddings from the
texts that still matter.

Needs the extra ``sentence-transformers``. :class:`FrugalSentenceTransformerTrainer` replaces
``SentenceTransformerTrainer``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

try:
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers
except ImportError as error:
    raise ImportError(
        "this integration needs sentence-transformers: pip install "
        "'frugalkd[sentence-transformers]'"
    ) from error

from frugalkd.data.text import check_vocabulary, vocabulary_of
from frugalkd.errors import ModelError, SelectionMisuse, UnsupportedData, few
from frugalkd.files import StrPath
from frugalkd.integrations.transformers import FrugalMixin
from frugalkd.objectives import EmbedDistill, Objective
from frugalkd.objectives.criterion import Criterion
from frugalkd.policies import Ids, Sampling
from frugalkd.teachers import Targets


class FrugalSentenceTransformerTrainer(FrugalMixin, SentenceTransformerTrainer):
    """sentence-transformers' trainer, distilling embeddings with a fraction of the texts.

    ```python
    trainer = FrugalSentenceTransformerTrainer(
        student, args, train_dataset=texts, loss=EmbedDistillLoss(student), teacher=teacher
    )
    print(trainer.train().metrics["budget"])
    ```

    The loss is the trainer's ``EmbedDistillLoss`` or ``MSELoss``, one value a row, with its
    ``projection_dim`` where widths differ; by default that of the cosine. Teacher embeddings come
    from ``teacher``, or from the column ``label`` of the data, where they are computed beforehand,
    as sentence-transformers does it. Everything else is as in
    :class:`~frugalkd.integrations.transformers.FrugalMixin`.

    Args:
        teacher: a SentenceTransformer of the student's tokenizer, or targets; None: the data have a
            column ``label`` of its embeddings.
        store, sampling: as in :class:`~frugalkd.integrations.transformers.FrugalMixin`.

    Raises:
        ModelError: a loss that couples the rows of a batch, or gives one number for all; one of
            your own that derives from EmbedDistillLoss; widths
            that differ without a ``projection_dim``.
        TargetsError: the teacher has another vocabulary than the student.
        UnsupportedData: several columns of texts, or neither a teacher nor a column ``label``.
        SelectionMisuse: a batch sampler, which the selection would ignore; and what
            :class:`~frugalkd.integrations.transformers.FrugalMixin` raises.
    """

    own_loss = False

    def __init__(
        self,
        *args: Any,
        teacher: SentenceTransformer | Targets | None = None,
        store: StrPath | None = None,
        sampling: Sampling | None = None,
        **kwargs: Any,
    ):
        # The kind of output has to be known before the loss is.
        objective = EmbedDistill()
        super().__init__(
            *args, teacher=teacher, store=store, sampling=sampling, objective=objective, **kwargs
        )
        if isinstance(teacher, SentenceTransformer):
            own, theirs = (vocabulary_of(model.tokenizer) for model in (self.model, teacher))
            check_vocabulary(own, theirs)

    def get_default_loss(self, model: SentenceTransformer) -> nn.Module:
        return EmbedDistillLoss(model)

    def _take_teacher(self, teacher: nn.Module | Targets | None, model: nn.Module) -> None:
        self.objective = objective_of(self.loss)
        super()._take_teacher(_Column() if teacher is None else teacher, model)

    def _criterion(self) -> Criterion:
        projection = getattr(self.loss, "projection", None)
        assert self.objective is not None, "_take_teacher sets it"
        return Criterion(self.objective, projection=projection)

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.args.batch_sampler != BatchSamplers.BATCH_SAMPLER:
            raise SelectionMisuse(
                f"the selection decides which samples make a batch: remove batch_sampler="
                f"{str(self.args.batch_sampler)!r}"
            )

    def _forward_of(self, model: nn.Module) -> Callable[[Any], Tensor]:
        return partial(self._outputs, model)

    def _outputs(self, model: nn.Module, inputs: Any) -> Tensor:
        columns, _ = self.collect_features(dict(inputs))
        if len(columns) != 1:
            raise UnsupportedData(
                f"the data have {len(columns)} columns of texts ({few(list(inputs))}): one, whose "
                "embedding is learned, is needed"
            )
        return model(columns[0])["sentence_embedding"]

    def _collator(self) -> Callable[[list[Any]], Any]:
        return partial(_without_modality, self.data_collator)


def _without_modality(collator: Callable[[list[Any]], Any], samples: list[Any]) -> dict[str, Any]:
    """A batch without the kind of its inputs, which the model sees for itself: rows are selected
    from batches, and it has none."""
    batch = collator(samples)
    return {key: batch[key] for key in batch if not key.endswith("_modality")}


class _Column(Targets):
    """The teacher's embeddings in the column ``label`` of the data."""

    views = None
    queries = 0
    phase = "load"

    def classes(self, data: Any) -> int | None:
        return None if data is None else self.fetch(*[torch.empty(0)] * 2, data).shape[1]  # pyright: ignore

    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        found = data.get("label")
        if not isinstance(found, Tensor) or found.ndim != 2 or not found.is_floating_point():
            raise UnsupportedData(
                "the data have no column 'label' of the teacher's embeddings: pass teacher=, or "
                "compute them beforehand, as for EmbedDistillLoss"
            )
        return found.float()


def objective_of(loss: object) -> Objective:
    """The objective that a loss of sentence-transformers is, row by row. Raises ModelError."""
    if isinstance(loss, EmbedDistillLoss):
        kind = type(loss)
        for name in ("forward", "compute_loss_from_embeddings"):
            if getattr(kind, name) is not getattr(EmbedDistillLoss, name):
                raise ModelError(
                    f"{kind.__name__}.{name} would not be called, since the objective gives one "
                    "loss a row: give EmbedDistillLoss or MSELoss"
                )
        return EmbedDistill(loss.distance_metric)  # pyright: ignore[reportArgumentType]
    raise ModelError(
        f"{type(loss).__name__} couples the rows of a batch, or is not a distance to a teacher's "
        "embedding: give EmbedDistillLoss or MSELoss, which give one value a row"
    )
