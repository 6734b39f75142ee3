"""Positions chosen by this visit's forward pass, SE-KD and TIP, beside random ones.

    python -m benchmarks.language.rivals COMPARISON OUT --seeds 3

``COMPARISON`` is a folder of ``benchmarks/language/run.sh parts``, whose teacher and store are
used. Both rivals run the head on all positions without gradients, and then the head with gradients
and the loss on those that they choose, as SE-KD's authors do with a selective head. Body, batches,
objective and learning rate are those of all arms. Runs of a seed follow each other in an order that
turns; finished ones are not repeated. Writes ``OUT/rivals.json``: arm -> perplexity and seconds,
one a seed.

SE-KD (Tavor et al., arXiv 2602.01395): of each block, the positions of the largest entropy of the
student; the authors take a fifth of them, and distil pretrained models. TIP (Xu et al., arXiv
2604.14084), the rule that joins entropy h and divergence d: the largest h + d - h d of a batch,
each scaled to 0 .. 1 over it. d is the training's loss: forward KL
with a tenth of cross-entropy here, reverse KL there. What a batch scales by, and that positions are
ranked within it, is our reading of TIP; only summaries of its text were available to us.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.comparisons import ratio
from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.experiments.runs import execute
from frugalkd.language.criterion import TokenCriterion
from frugalkd.language.loss import token_loss
from frugalkd.language.models import rows_at_once
from frugalkd.objectives.criterion import Learned
from frugalkd.selection import Batch
from frugalkd.training import api

RECIPE = Path(__file__).parent / "tiny.yaml"
PARTS = (0.5, 0.25)
ARMS = ["all", *(f"{rule} {part}" for part in PARTS for rule in ("random", "SE-KD", "TIP"))]


class Chosen(TokenCriterion):
    """Learns ``part`` of the rows of a batch, by ``rule``."""

    def __init__(self, *given: Any, part: float, rule: str):
        super().__init__(*given)
        self.part, self.rule = part, rule

    def learn(self, forward: Any, data: Any, labels: Tensor, batch: Batch) -> Learned:
        states, rows = self.model.states(data, forward), self.model.labels(data)
        targets: Any = batch.targets
        objective = self.objective.at(batch.progress)
        entropies, losses = [], []
        with torch.no_grad():
            size = rows_at_once(self.model.vocabulary, states.device)
            for start in range(0, len(states), size):
                at = slice(start, min(start + size, len(states)))
                logits = self.model.logits(states[at])
                shares = logits.log_softmax(dim=1)
                entropies.append(-(shares.exp() * shares).sum(dim=1))
                if self.rule == "TIP":
                    losses.append(objective(logits, targets.part(at), rows[at]))
        entropy = torch.cat(entropies)
        counts = self._corpus.row_counts(batch.ids).tolist()
        if self.rule == "SE-KD":
            kept = top_of_each(entropy, counts, self.part)
        else:
            kept = (
                soft_or(entropy, torch.cat(losses)).topk(math.ceil(self.part * len(rows))).indices
            )
        found = token_loss(
            self.model, states[kept], rows[kept], targets.part(kept), objective, tokens=len(kept)
        )
        mean = found.losses.mean().expand(len(counts))
        return Learned(found.loss, mean[:, None], mean)


def top_of_each(values: Tensor, counts: list[int], part: float) -> Tensor:
    """The places of the largest ``part`` of the values of each block, rounded up; ``values`` are
    those of blocks of ``counts`` rows, one after another."""
    kept, start = [], 0
    for own in values.split(counts):
        kept.append(start + own.topk(math.ceil(part * len(own))).indices)
        start += len(own)
    return torch.cat(kept)


def soft_or(entropy: Tensor, divergence: Tensor) -> Tensor:
    """h + d - h d, (rows,), of both scaled to 0 .. 1."""
    h, d = (
        (each - each.min()) / (each.max() - each.min()).clamp_min(1e-6)
        for each in (entropy, divergence)
    )
    return h + d - h * d


def run(arm: str, seed: int, out: Path, comparison: Path) -> dict[str, float]:
    rule, _, part = arm.partition(" ")
    settings = [f"seed={seed}"] + [f"student.positions={part}"] * (rule == "random")
    criterion: Any = TokenCriterion
    if rule in ("SE-KD", "TIP"):
        criterion = partial(Chosen, part=float(part), rule=rule)
    (teacher,) = (comparison / "teachers").glob("plain-*")
    with mock.patch.object(api, "TokenCriterion", criterion):
        results = execute.distill(
            load_recipe(str(RECIPE), settings), out / f"{arm}, seed {seed}", teacher=teacher,
            stores=comparison / "stores",
        )  # fmt: skip
    return {
        "perplexity": results["evaluation"]["perplexity"],
        "seconds": results["meters"]["wall_seconds"],
    }


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Perplexities are geometric means; differences and time ratios, to *all*, pair seeds."""
    lines = [
        "| arm | seeds | perplexity | over all's, % | over as many random ones, % "
        "| seconds, median | time ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]

    def over(other: str) -> str:
        pairs = zip(own["perplexity"], found[other]["perplexity"], strict=True)
        return "" if arm == other else ratio([math.log(one / two) for one, two in pairs])

    for arm, own in found.items():
        pairs = zip(own["seconds"], found["all"]["seconds"], strict=True)
        rule, _, part = arm.partition(" ")
        cells = [
            arm, str(len(own["seconds"])), f"{statistics.geometric_mean(own['perplexity']):.2f}",
            over("all"), over(f"random {part}") if rule in ("SE-KD", "TIP") else "",
            f"{statistics.median(own['seconds']):.0f}",
            f"{statistics.median([one / two for one, two in pairs]):.2f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparison", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for seed in range(given.seeds):
        for arm in ARMS[seed % len(ARMS) :] + ARMS[: seed % len(ARMS)]:
            found[arm].append(run(arm, seed, given.out, given.comparison))
            print(arm, seed, found[arm][-1], flush=True)
        made = {
            arm: {name: [one[name] for one in runs] for name in runs[0]}
            for arm, runs in found.items()
        }
        (given.out / "rivals.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
