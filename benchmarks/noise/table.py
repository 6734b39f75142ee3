"""The tables of finished jobs: how many wrong labels are found, and students on clean test data."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.comparisons import points
from frugalkd.experiments.comparison.statistics import differences, mean_interval

DRAWS = 500
"""Of the paired bootstrap over samples."""

OURS = ("teach", "audit")
"""The method and the score that others are compared with."""

FIRST = (100, 500)


def average_precision(wrong: NDArray[np.bool_], scores: NDArray) -> float:
    """Of ranking by ``scores``, the lowest first, as scikit-learn computes it; ``wrong``: some."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(wrong, -scores))


def measures(wrong: NDArray[np.bool_], scores: NDArray) -> dict[str, float | int]:
    """``average_precision``, ``precision_at`` 100 and 500, and ``reviews_for_80``: how many labels
    have to be reviewed, the most suspicious first, to find 80 % of the wrong ones."""
    order = np.argsort(scores, kind="stable")
    found = np.cumsum(wrong[order])
    needed = int(np.searchsorted(found, np.ceil(0.8 * wrong.sum()))) + 1
    precision = {f"precision_at_{k}": float(found[min(k, len(found)) - 1]) / k for k in FIRST}
    average = average_precision(wrong, scores)
    return {"average_precision": average, **precision, "reviews_for_80": needed}


def paired(
    wrong: NDArray[np.bool_], one: NDArray, other: NDArray, draws: int = DRAWS, seed: int = 0
) -> NDArray[np.float64]:
    """Differences (draws,) of average precision, ``one`` minus ``other``, over samples drawn with
    replacement."""
    stream = np.random.default_rng(seed)
    found = np.empty(draws)
    first, second = _resampled(wrong, one), _resampled(wrong, other)
    for draw in range(draws):
        times = np.bincount(stream.integers(len(wrong), size=len(wrong)), minlength=len(wrong))
        found[draw] = first(times) - second(times)
    return found


def _resampled(wrong: NDArray[np.bool_], scores: NDArray) -> Callable[[NDArray], float]:
    """Average precision where each sample counts so many times, without sorting again."""
    order = np.argsort(scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) > 0, True))  # of equal scores

    def precision(times: NDArray[np.int64]) -> float:
        hits, among = (np.cumsum(part[order])[last] for part in (times * wrong, times))
        gained = np.diff(hits, prepend=0)
        return float((gained * hits / np.maximum(among, 1)).sum() / max(hits[-1], 1))

    return precision


def summarise(out: Path, names: Sequence[str]) -> dict[str, Any]:
    """What the finished ones of the jobs ``names`` found, by noise: of each ranking the measures
    by seed, and its difference to ours with a 95 % interval of the paired bootstrap (its draws are
    averaged over seeds); and of each training with a measured model its results by seed."""
    done: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name in names:
        if (out / name / "result.json").is_file():
            said = json.loads((out / name / "result.json").read_text())
            done[said["noise"]].append({**said, "folder": name})
    return {noise: _of_noise(out, jobs) for noise, jobs in done.items()}


def _of_noise(out: Path, jobs: list[dict[str, Any]]) -> dict[str, Any]:
    rankings: dict[str, dict[str, Any]] = {}
    trainings: dict[str, list[dict[str, Any]]] = defaultdict(list)
    ours: dict[int, Any] = {}
    for job in sorted(jobs, key=lambda job: job["method"] != OURS[0]):
        seed, notes = job["seed"], {k: v for k, v in job.items() if k not in _IDENTITY}
        if "evaluation" in notes:
            trainings[job["method"]].append({"seed": seed, **notes})
        if not job["wrong"] or not (out / job["folder"] / "scores.npz").is_file():
            continue
        with np.load(out / job["folder"] / "scores.npz") as scores:
            wrong = scores["wrong"]
            if job["method"] == OURS[0]:
                ours[seed] = scores[OURS[1]]
            for score in [name for name in scores.files if name != "wrong"]:
                found = rankings.setdefault(f"{job['method']}: {score}", {"seeds": [], "draws": []})
                seconds = job["seconds"]["cpu"]
                found["seeds"].append(
                    {"seed": seed, **measures(wrong, scores[score]), "seconds": seconds}
                )
                if seed in ours and (job["method"], score) != OURS:
                    found["draws"].append(paired(wrong, ours[seed], scores[score]))
    for found in rankings.values():
        draws = found.pop("draws")
        if draws:
            low, high = np.percentile(np.mean(draws, axis=0), [2.5, 97.5])
            found["ours_minus_this"] = {
                "mean": float(np.mean(draws)), "ci95": [float(low), float(high)],
            }  # fmt: skip
    about = {"data": jobs[0]["data"], "rows": jobs[0]["rows"]}
    wrong = float(np.mean([job["wrong"] for job in jobs]))
    return {**about, "wrong": wrong, "rankings": rankings, "trainings": dict(trainings)}


_IDENTITY = ("data", "rows", "noise", "method", "seed", "folder", "wrong")


def _mean(rows: list[dict[str, Any]], *keys: str) -> float:
    values: list[Any] = [reduce(getitem, keys, row) for row in rows]
    return float(np.mean(values))


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    parts = []
    for noise, said in found.items():
        what = f"{said['data']}, first {said['rows']:,} rows, {noise}"
        parts.append(f"**{what}** ({100 * said['wrong']:.1f} % wrong)")
        lines = [
            "| ranking | seeds | average precision | ours minus this | precision at 100 / 500 | "
            "reviews for 80 % | CPU s |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        for name, each in said["rankings"].items():
            rows, against = each["seeds"], each.get("ours_minus_this")
            shown = "" if against is None else (
                f"{against['mean']:+.4f} ({against['ci95'][0]:+.4f} to {against['ci95'][1]:+.4f})"
            )  # fmt: skip
            at = " / ".join(f"{_mean(rows, f'precision_at_{k}'):.3f}" for k in FIRST)
            lines.append(
                f"| {name} | {len(rows)} | {_mean(rows, 'average_precision'):.4f} | {shown} | {at} "
                f"| {_mean(rows, 'reviews_for_80'):,.0f} | {_mean(rows, 'seconds'):,.0f} |"
            )
        parts += ["\n".join(lines)] if said["rankings"] else []
        lines = [
            "| training | seeds | accuracy % | worst class % | cost, epochs | labels disbelieved | "
            "of them wrong | CPU s |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
        ]
        for name, rows in said["trainings"].items():
            disbelief = "| |"
            if "disbelieved" in rows[0]:
                count = _mean(rows, "disbelieved", "count")
                hits = _mean(rows, "disbelieved", "wrong") / max(count, 1)
                disbelief = f"| {count:,.0f} | {100 * hits:.1f} %"
            lines.append(
                f"| {name} | {len(rows)} | {100 * _mean(rows, 'evaluation', 'accuracy'):.2f} | "
                f"{100 * _mean(rows, 'evaluation', 'worst_class_accuracy'):.1f} | "
                f"{_mean(rows, 'cost'):.2f} {disbelief} | {_mean(rows, 'seconds', 'cpu'):,.0f} |"
            )
        parts += ["\n".join(lines)] if said["trainings"] else []
        parts += _corrected(said["trainings"])
    return "\n\n".join(parts)


def _corrected(trainings: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """Macro F1 of trainings on corrected data, and its difference to the data as they are."""
    f1 = {
        name: {row["seed"]: row["f1"] for row in rows}
        for name, rows in trainings.items()
        if "f1" in rows[0]
    }
    lines = ["| training | seeds | macro F1 % | against untouched |", "|---|--:|--:|--:|"]
    for name, found in f1.items():
        against = differences(found, f1.get("untouched", {}))[1] if name != "untouched" else []
        shown = points(mean_interval(against), "+") if against else ""
        mean = points(mean_interval(list(found.values())))
        lines.append(f"| {name} | {len(found)} | {mean} | {shown} |")
    return ["\n".join(lines)] if f1 else []
