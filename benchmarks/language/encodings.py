"""How far the stored distribution of a token is from the teacher's, by the teacher's entropy.

``python -m benchmarks.language.encodings --out benchmarks/results/language-encodings.json``. Each
teacher is a Zipf distribution, p proportional to rank ** -a, with its tokens in a random order; the
exponent decides the entropy. The error is the sum over tokens of the squared difference between
stored weight and probability, over the draws of many rows; what top-k keeps for all others together
counts as shared evenly.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from frugalkd.language.encodings import TOKEN_ENCODINGS, make_token_encoding

EXPONENTS = (3.0, 2.0, 1.6, 1.3, 1.1, 0.9, 0.6)
SIZES = (32, 64)


def error_of(name: str, size: int, logits: torch.Tensor, rows: int) -> float:
    """Mean over ``rows`` draws of the squared error of one distribution."""
    encoding, p = make_token_encoding(name, size), torch.softmax(logits.double(), dim=0)
    classes = len(logits)
    at_once, total = 64, 0.0
    for first in range(0, rows, at_once):
        ids = np.arange(first, min(first + at_once, rows))
        labels = torch.zeros(len(ids), dtype=torch.int64)
        records = encoding.encode(logits.expand(len(ids), -1), labels, ids, ids * 0)
        kept = encoding.decode(records, classes).logits(classes).double().softmax(dim=1)
        total += (kept - p).square().sum().item()
    return total / rows


def measure(classes: int, rows: int) -> dict:
    """Errors by exponent, encoding and bytes."""
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(0))
    found = []
    for exponent in EXPONENTS:
        logits = -exponent * torch.log(torch.arange(1, classes + 1).double())
        logits = logits[order].float()
        entropy = torch.distributions.Categorical(logits=logits.double()).entropy().item()
        errors = {
            f"{name}, {size} bytes": error_of(name, size, logits, rows)
            for name in TOKEN_ENCODINGS
            for size in SIZES
        }
        found.append({"exponent": exponent, "entropy": entropy, "squared_error": errors})
    return {"tokens": classes, "rows": rows, "distributions": found}


def table(results: dict) -> str:
    """Markdown, of 64 bytes, with the ratio of sampled over head+tail."""
    names = [f"{name}, 64 bytes" for name in TOKEN_ENCODINGS]
    lines = ["| entropy, nats | " + " | ".join(TOKEN_ENCODINGS) + " | sampled / head+tail |"]
    lines.append("|---" * (len(names) + 2) + "|")
    for each in results["distributions"]:
        errors = each["squared_error"]
        ratio = errors["sampled, 64 bytes"] / max(errors["head+tail, 64 bytes"], 1e-30)
        cells = " | ".join(f"{errors[name]:.2g}" for name in names)
        lines.append(f"| {each['entropy']:.2f} | {cells} | {ratio:.2g} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = measure(given.tokens, given.rows)
    print(table(results))
    if given.out is not None:
        given.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
