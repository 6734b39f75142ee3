"""Comparisons made up for the page: numbers that a test can know by heart."""

from __future__ import annotations

import copy

from frugalkd.experiments.comparison.summary import mark_frontiers
from frugalkd.experiments.recipes.load import load_recipe

_RECIPE = load_recipe("digits").model_dump(mode="json")
PHASES = {"forward": 10.0, "backward": 20.0, "screen": 5.0, "store": 0.5}


def spread(mean, half=0.002, seeds=10):
    return {"mean": mean, "ci95": [mean - half, mean + half], "values": [mean] * seeds}


def make_arm(name, accuracy, budget=1.0, time=None, mode=None, **more):
    seeds = more.pop("seeds", 10)
    return {
        "arm": name,
        "about": "all, in every epoch",
        "mode": mode,
        "seeds": list(range(seeds)),
        "accuracy": spread(accuracy, seeds=seeds),
        "difference": None if name == "vanilla" else spread(accuracy - 0.903),
        "against_random": None,
        "budget": {"mean": budget, "values": [budget] * seeds},
        "budget_asked": None,
        "own_budget": False,
        "on_budget": None,
        "cost": {"mean": 24 * budget, "values": [24 * budget] * seeds},
        "forwards": {"mean": budget, "values": [budget] * seeds},
        "wall_ratio": {"mean": budget if time is None else time, "ci95": None},
        "meters": {
            "samples_backpropagated": 1000 * budget,
            "wall_seconds": 40 * budget,
            "phases": {name: value * budget for name, value in PHASES.items()},
        },
        "collapsed": 0,
        "failed": [],
        "teacher": "self-regulated",
        "control": None,
        "control_of": None,
        "matched": None,
        "digests": {str(seed): f"{seed:064x}" for seed in range(seeds)},
        "frontier": None,
        "history": {"every": 1, "trained": [1.0, budget], "participations": [0.8, budget / 2]},
        **more,
    }


def make_summary(classes=("ant", "bee"), samples=100):
    ends = [
        {"id": id, "class": classes[id % len(classes)], "significance": 1.0 - id / 10,
         "confidence": 0.5, "correct": True}
        for id in range(6)
    ]  # fmt: skip
    return {
        "samples": samples,
        "epochs": 4.0,
        "policy": "p",
        "data": None,
        "mean": 0.25,
        "never": 0.5,
        "always": 0.125,
        "classes": [
            {"class": name, "samples": 50, "mean": 0.5, "never": 0.1, "always": 0.2}
            for name in classes
        ],
        "classes_left_out": 0,
        "histogram": [50, 0, 0, 0, 0, 0, 0, 0, 0, 50],
        "most": ends[:3],
        "least": ends[3:],
        "refused": 7,
        "suspects": [
            {"id": id, "given": classes[0], "suggested": classes[-1], "margin": -1.5,
             "probability": 0.125, **({"score": -2.5} if id < 8 else {})}
            for id in range(6, 9)  # of an older run, which had no score, the last
        ],
    }  # fmt: skip


def make_comparison(arms=None, **more):
    """The content of a comparison.json; by default that of the headline in the documentation."""
    if arms is None:
        arms = [
            make_arm("vanilla", 0.903, mode="vanilla"),
            make_arm("regulated", 0.899, 0.27, 0.33, mode="regulated"),
            make_arm("random:regulated", 0.886, 0.27, 0.29, control="random",
                     control_of="regulated"),
        ]  # fmt: skip
    mark_frontiers(arms)
    return {
        "schema": 2,
        "reference": "vanilla",
        "arms": arms,
        "teachers": [
            {
                "teacher": "self-regulated",
                "settings": {},
                "seed": 0,
                "accuracy": 0.93,
                "budget": 0.35,
                "wall_seconds": 60.0,
                "digest": "f" * 64,
                "error": None,
                "targets": {"rows": 100, "seconds": 2.0},
                "summary": make_summary(),
            }
        ],
        "failed": [],
        "complete": True,
        "name": "digits",
        "seeds": list(range(10)),
        "split": "test",
        "threads": 1,
        "versions": {"torch": "2.13.0", "python": "3.11.7"},
        "notes": ["a note"],
        "recipe": copy.deepcopy(_RECIPE),
        "claims": [],
        **more,
    }
