"""Whole blocks chosen by their last divergence from the teacher, before a gate on blocks is built.

``python -m benchmarks.language.blocks tiny tiny-cut --out benchmarks/results/language-blocks.json``
trains each student from a store on half of the blocks of each epoch: the half with the largest
divergence at their last visit (``gate``, where a block rests at most four epochs), a random half
(``random``), random halves of the positions of all blocks (``positions``, which takes the steps of
all blocks and runs the body on them), and all blocks for half of the epochs (``short``) or for all
(``dense``). The same learning rate, curve and held-out text; perplexities are of the last epoch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.comparisons import ratio
from benchmarks.language.gains import BATCH, LENGTH, RATES, Clock, prepared, trained
from frugalkd.language import StoredTokens, tiny_splits, tokenize_corpus
from frugalkd.language.evaluation import measure_tokens
from frugalkd.language.tiny import tiny_tokenizer

ARMS = ("dense", "gate", "random", "positions", "short")
REST = 4
"""Epochs after which a block is trained on again."""

Ids = NDArray[np.int64]


class Half:
    """Which blocks an epoch uses."""

    def __init__(self, arm: str, blocks: int, seed: int):
        self.arm, self.last = arm, np.full(blocks, -1)
        self.divergence = np.full(blocks, np.inf)
        self._draw, self._epoch = np.random.default_rng((seed, 1)), -1

    def __call__(self) -> Ids:
        self._epoch += 1
        blocks = len(self.last)
        everything = self._draw.permutation(blocks)
        if self.arm not in ("gate", "random"):
            return everything
        first = everything
        if self.arm == "gate":
            due = self._epoch - self.last >= REST
            first = everything[np.lexsort((-self.divergence[everything], ~due[everything]))]
        return self._draw.permutation(first[: -(-blocks // 2)])

    def enter(self, ids: Ids, divergences: NDArray[np.float64]) -> None:
        self.last[ids], self.divergence[ids] = self._epoch, divergences


def measure(name: str, epochs: int, seeds: int) -> dict[str, Any]:
    """Perplexities and processor seconds of the training, by arm and seed."""
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        _, teacher, corpus = prepared(name, f"{folder}/corpus")
        StoredTokens.fill(teacher, corpus, f"{folder}/store")
        held = tokenize_corpus(
            [tiny_splits()[1]], tiny_tokenizer(), f"{folder}/held", length=LENGTH
        )
        for seed in range(seeds):
            for arm in ARMS:
                student = prepared(name, f"{folder}/corpus", teacher, seed)[0]
                data = corpus.drawn(0.5, seed=seed) if arm == "positions" else corpus
                half = Half(arm, len(corpus), seed)
                length = epochs // 2 if arm == "short" else epochs
                targets = StoredTokens(f"{folder}/store", data)
                started = time.process_time()
                for _ in trained(student, data, targets, RATES[name], length, Clock(), half):
                    pass
                seconds[arm].append(time.process_time() - started)
                found[arm].append(measure_tokens(student, held)["perplexity"])
                print(name, seed, arm, round(found[arm][-1], 3), flush=True)
    about = {"epochs": epochs, "blocks": len(corpus), "batch": BATCH}
    return {**about, "perplexity": found, "seconds": seconds}


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "| student | arm | seeds | perplexity | over dense, % | seconds over dense's |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, found in results.items():
        dense = np.log(found["perplexity"]["dense"])
        for arm, values in found["perplexity"].items():
            said = "" if arm == "dense" else ratio((np.log(values) - dense).tolist())
            mean = float(np.exp(np.log(values).mean()))
            spent = np.mean(found["seconds"][arm]) / np.mean(found["seconds"]["dense"])
            lines.append(f"| {name} | {arm} | {len(values)} | {mean:.2f} | {said} | {spent:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", choices=["tiny", "tiny-cut"])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results = {}
    if given.out is not None and given.out.exists():
        results = json.loads(given.out.read_text())
    for name in given.models:
        results[name] = measure(name, given.epochs, given.seeds)
        if given.out is not None:
            given.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
