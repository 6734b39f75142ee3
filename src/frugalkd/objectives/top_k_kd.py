"""Knowledge distillation on the teacher's k likeliest classes and all others together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import Objective
from frugalkd.teachers.fidelity import Fidelity


@dataclass(frozen=True)
class TopKKD(Objective):
    """KD that asks of the others only their sum: for soft targets that keep the k largest logits.

    *Loss:* ``alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * cross-entropy``, the
    divergence being over k + 1 outcomes: the teacher's k likeliest classes, and all other classes
    as one.

    *Our reading:* ours, after the stores that keep the top of the teacher's distribution (FKD, Shen
    and Xing, ECCV 2022; TinyViT, Wu et al., ECCV 2022), which smooth the rest evenly. KD on top-k
    targets does that too, and so pulls the student's less likely classes together; here how the
    student divides the rest is free. Never more than KD on the whole distribution, and equal to it
    where k reaches the number of classes.

    *Needs:* the teacher's softmax at T: top-k of at least this k, float16, float32 or a live
    teacher. Draws are refused: they do not say which classes are the likeliest.

    Attributes:
        temperature: T > 0, of both softmaxes in the soft part.
        alpha: the soft part's share, in [0, 1].
        k: how many classes are told apart; of stored top-k targets at most theirs.
    """

    temperature: float = 4.0
    alpha: float = 0.9
    k: int = 32
    needs_targets = True
    reads = Fidelity.SOFTMAX

    def __post_init__(self) -> None:
        numerics.check_positive(temperature=self.temperature, k=self.k)
        numerics.check_share(alpha=self.alpha)

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.softened(logits, targets, self.temperature)
        if self.k < student.shape[1]:
            top = teacher.topk(self.k, dim=1).indices
            student, teacher = _top_and_rest(student, top), _top_and_rest(teacher, top)
        soft = self.temperature**2 * numerics.divergence(teacher, student)
        return self.alpha * soft + (1 - self.alpha) * numerics.cross_entropy(logits, labels)


def _top_and_rest(logs: Tensor, top: Tensor) -> Tensor:
    """From logarithms of probabilities those of the classes ``top`` (rows, k) and of all others
    together, (rows, k + 1)."""
    rest = logs.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.cat([logs.gather(1, top), rest], dim=1)
