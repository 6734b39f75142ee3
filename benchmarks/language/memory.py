"""The most memory of a training from a store and with a live teacher, and a store's bytes a token.

``python -m benchmarks.language.memory --out benchmarks/results/language-memory.json``. Each
training is a process of its own, of a few steps: a student of 4 layers x 256 learns from a teacher
of random weights, of SmolLM2-135M's sizes by default. ``logits`` are the bytes that all logits of a
batch would take, the student's and the teacher's, in float32; they never exist at once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = {"layers": 30, "width": 576, "vocabulary": 49_152}
"""Of SmolLM2-135M, with heads of 64 and an inner layer of 8/3 of the width."""
BLOCKS, LENGTH, BATCH = 16, 256, 4
ARMS = ("live", "stored")

_RUN = """
import json, resource, sys
import numpy as np
import torch
torch.set_num_threads(1)
from frugalkd import Training, distill
from frugalkd.language import Corpus, StoredTokens, tiny_model
arm, folder, sizes, batch = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
corpus = Corpus(folder + "/corpus")
def teacher():
    return tiny_model(**sizes).eval()
if arm == "fill":
    StoredTokens.fill(teacher(), corpus, folder + "/store", batch_size=batch)
else:
    targets = teacher() if arm == "live" else StoredTokens(folder + "/store", corpus)
    student = tiny_model(4, 256, vocabulary=sizes["vocabulary"], seed=1)
    training = Training(epochs=1, batch_size=batch)
    run = distill(student, corpus, teacher=targets, training=training, device="cpu")
    assert run.meters.tokens_backpropagated == corpus.rows
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)
"""


def peak(arm: str, folder: str, sizes: dict[str, int], batch: int) -> int:
    """Bytes, at most, of a process that fills the store, or trains."""
    command = [sys.executable, "-c", _RUN, arm, folder, json.dumps(sizes), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def measure(sizes: dict[str, int], blocks: int, length: int, batch: int) -> dict:
    """Bytes of each arm's process, of the teacher's weights, and of a stored token."""
    import numpy as np

    from frugalkd.language import tiny_model, tokenize_corpus
    from frugalkd.language.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer(vocabulary=min(4096, sizes["vocabulary"]))
    tokens = np.random.default_rng(0).integers(1, len(tokenizer), size=(blocks, length))
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"input_ids": row} for row in tokens.tolist()]
        corpus = tokenize_corpus(rows, tokenizer, f"{folder}/corpus", length=length)
        weights = sum(each.numel() * 4 for each in tiny_model(**sizes).parameters())
        peak("fill", folder, sizes, batch)
        records = [path.stat().st_size for path in Path(folder, "store").rglob("*")]
        peaks = {arm: peak(arm, folder, sizes, batch) for arm in ARMS}
    return {
        "sizes": sizes,
        "tokens": corpus.rows,
        "batch_tokens": batch * (length - 1),
        "store_bytes_per_token": sum(records) / corpus.rows,
        "teacher_weights": weights,
        "logits": 2 * 4 * batch * (length - 1) * len(tokenizer),
        "peak": peaks,
    }


def table(results: dict) -> str:
    """Markdown, in MB."""
    lines = ["| | MB |", "|---|---|"]
    live, stored = results["peak"]["live"], results["peak"]["stored"]
    for name, value in (
        ("peak, live teacher", live),
        ("peak, from the store", stored),
        ("difference", live - stored),
        ("the teacher's weights", results["teacher_weights"]),
    ):
        lines.append(f"| {name} | {value / 1e6:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results = measure(SIZES, given.blocks, LENGTH, BATCH)
    print(table(results))
    if given.out is not None:
        given.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
