"""The result of a training, and its way to the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from frugalkd.ledger.ledger import Ledger
from frugalkd.models.export import save_model
from frugalkd.models.hub import MESSAGE, own_loading, push, table, write_card
from frugalkd.models.origin import origin_of
from frugalkd.policies.modes import OutputName
from frugalkd.runtime.formatting import duration, percent
from frugalkd.runtime.meters import Meters


@dataclass
class Run:
    """The result of a training.

    Attributes:
        model: the trained model (of the last epoch, or the average of ``training.ema``), in eval
            mode.
        ledger: the record of each sample.
        meters: the cost.
        budget: the samples that went through a backward pass, as a fraction of training on all in
            every epoch that was given.
        history: one record per epoch: loss, learning rate, rows by kind, seconds.
        evaluation: measures on ``eval_dataset``, or None.
        probabilities: float32 (samples, classes) of the model on ``eval_dataset``, or None; of
            another kind of output than one class, its outputs.
        features: of :func:`frugalkd.train_head`, the features that it trained on: ``rows``, the
            ``seconds`` that computing them took, and the file that they were ``reused_from``.
        projection: from the model's embeddings to the teacher's width, where these differ.
        output: the kind of the model's outputs, a key of :data:`frugalkd.outputs.OUTPUTS`.
    """

    model: nn.Module
    ledger: Ledger
    meters: Meters
    budget: float
    history: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] | None = None
    probabilities: NDArray[np.float32] | None = None
    features: dict[str, Any] | None = None
    projection: nn.Linear | None = None
    output: OutputName = "one-class"

    def push_to_hub(
        self,
        repo_id: str,
        *,
        description: str = "",
        license: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = MESSAGE,
        branch: str | None = None,
        create_pr: bool | None = None,
    ) -> str:
        """Push the model's weights and a card that says what they cost to the Hugging Face hub. A
        model of transformers, or another one that has ``save_pretrained``, is saved by that. (A
        run folder: ``frugalkd push``, whose card knows the recipe, and which ``frugalkd.load``
        builds again by name.)

        Args:
            repo_id: USER/NAME, made where it is missing.
            description: Markdown at the beginning of the card, such as what the teacher was.
            license: of the model, as the hub names it: ``apache-2.0``.
            private, token, commit_message, branch, create_pr: as of huggingface_hub's
                ``ModelHubMixin.push_to_hub``.

        Returns:
            The URL of the commit.

        Raises:
            ModelError: ``repo_id`` is not a valid name, or the hub refuses.
        """

        def write(folder: Path) -> None:
            classes = origin_of(self.model).classes
            weights = save_model(folder / "student.safetensors", self.model, classes)
            sections = {
                "": description or "Trained with frugalkd.",
                "Load it": own_loading(self.model, repo_id, weights),
                "What it came to": table(["what", "value"], list(self._facts().items())),
            }
            write_card(folder, repo_id, sections, license=license)

        return push(
            write, repo_id, token=token, private=private, commit_message=commit_message,
            branch=branch, create_pr=create_pr,
        )  # fmt: skip

    def _facts(self) -> dict[str, object]:
        """What is known of the training, as its card says it."""
        meters, samples = self.meters, len(self.ledger)
        cost = meters.cost(samples)["epochs"]
        facts = {
            **(self.evaluation or {}),
            "policy": self.ledger.about.get("policy"),
            "training samples": samples,
            "epochs": len(self.history),
            "samples backpropagated, of full training": percent(self.budget),
            "cost, epochs of full training": cost and round(cost, 2),
            "rows through the student": meters.student_forwards,
            "teacher queries": meters.teacher_queries,
            "time of training": duration(meters.wall_seconds),
            "SHA-256 of the training data": self.ledger.about.get("data"),
        }
        return {
            name: f"{value:.4f}" if isinstance(value, float) else value
            for name, value in facts.items()
            if value is not None
        }
