from __future__ import annotations

import pytest
from made_up import make_arm, make_comparison

from frugalkd.experiments.report.headline import chosen, headline, how_chosen
from frugalkd.experiments.runs.schema import Comparison


def said(arms=None):
    return headline(Comparison.model_validate(make_comparison(arms))).replace("\u00a0", " ")


VANILLA = make_arm("vanilla", 0.903, mode="vanilla")
REGULATED = make_arm("regulated", 0.899, 0.27, 0.33, mode="regulated")
OURS = (
    "regulated: 89.9 % with 27 % of the samples, 27 % of the cost and 33 % of the time of "
    "full distillation, which reaches 90.3 %"
)


def random(accuracy):
    return make_arm("random:regulated", accuracy, 0.27, control="random", control_of="regulated")


def test_the_sentence():
    assert said() == f"{OURS}; random at the same count: 88.6 %"


@pytest.mark.parametrize(
    ("others", "ending"),
    [
        ([], "; random at the same count was not run"),
        ([random(0.9)], "; random at the same count does better: 90.0 %"),
        ([random(0.899)], "; random at the same count does as well: 89.9 %"),
        (
            [random(0.886), make_arm("infobatch", 0.901, 0.25)],
            "; random at the same count: 88.6 %; "
            "infobatch does better with no more samples: 90.1 %",
        ),
        # With more samples it says nothing.
        ([random(0.886), make_arm("infobatch", 0.901, 0.5)], "; random at the same count: 88.6 %"),
    ],
)
def test_what_does_better_is_said(others, ending):
    assert said([VANILLA, REGULATED, *others]) == OURS + ending


def test_only_paired_seeds_are_compared():
    # Seed 2, where all do well, is one of regulated's alone: the others failed there.
    vanilla, ours, control = (
        make_arm(arm["arm"], arm["accuracy"]["mean"], arm["budget"]["mean"], mode=arm["mode"],
                 control=arm["control"], control_of=arm["control_of"], seeds=3)
        for arm in (VANILLA, REGULATED, random(0.886))
    )  # fmt: skip
    vanilla["accuracy"] = {"mean": 0.71, "values": [0.7, 0.72, None]}
    ours["accuracy"] = {"mean": 0.75, "values": [0.7, 0.7, 0.85]}
    control["accuracy"] = {"mean": 0.71, "values": [0.71, 0.71, None]}
    assert said([vanilla, ours, control]) == (
        "regulated: 70.0 % with 27 % of the samples, 27 % of the cost and 27 % of the time of "
        "full distillation, which reaches 71.0 %; random at the same count does better: 71.0 %"
    )
    why = how_chosen(Comparison.model_validate(make_comparison([vanilla, ours, control])))
    assert "none of frugalkd's modes is within 0.5 points" in why


def test_what_is_unfinished_is_said_first():
    more = {"complete": False, "complete_seeds": [0, 2], "runs": {"done": 20, "of": 30}}
    content = make_comparison(**more)
    said = headline(Comparison.model_validate(content)).replace("\u00a0", " ")
    assert said.startswith("2 of 10 seeds complete; regulated: 89.9 %")
    nothing = make_arm("vanilla", 0.9, seeds=0)
    nothing |= {"accuracy": {"mean": None, "values": []}, "budget": {"mean": None, "values": []}}
    content = make_comparison([nothing], **{**more, "complete_seeds": []})
    said = headline(Comparison.model_validate(content))
    assert said == "0 of 10 seeds complete; digits: the arms have finished no seed in common yet"


def test_the_cheapest_that_is_as_good_and_else_the_best():
    cheap = make_arm("hybrid", 0.89, 0.1, mode="hybrid")
    dear = make_arm("ceiling", 0.902, 0.6, mode="regulated")
    arms = [VANILLA, cheap, dear, REGULATED]
    found = chosen(Comparison.model_validate(make_comparison(arms)))
    assert found is not None
    assert found.arm == "regulated"
    worse = make_arm("significance", 0.88, 0.2, mode="significance")
    found = chosen(Comparison.model_validate(make_comparison([VANILLA, cheap, worse])))
    assert found is not None
    assert found.arm == "hybrid"  # neither is as good
    uncontrolled = make_arm("hybrid", 0.9, 0.1, mode="hybrid")
    arms = [VANILLA, uncontrolled, REGULATED, random(0.886)]
    found = chosen(Comparison.model_validate(make_comparison(arms)))
    assert found is not None
    assert found.arm == "regulated"


def test_a_budget_is_set_against_random_at_it():
    ours = make_arm("regulated@0.25", 0.899, 0.25, mode="regulated", budget_asked=0.25)
    rival = make_arm("random@0.25", 0.87, 0.25, budget_asked=0.25)
    assert said([VANILLA, ours, rival]).endswith("; random at the same count: 87.0 %")


def test_the_reason_for_that_arm_is_shown():
    said = how_chosen(Comparison.model_validate(make_comparison()))
    assert said.startswith("regulated: all, in every epoch. It is named because it takes the least")
    worse = make_arm(
        "regulated@0.1", 0.8, 0.1, mode="regulated", budget_asked=0.1, about="the gate"
    )
    said = how_chosen(Comparison.model_validate(make_comparison([VANILLA, worse])))
    assert said.startswith("regulated@0.1: the gate, with 10 % to spend. It is named because none")
    assert how_chosen(Comparison.model_validate(make_comparison([VANILLA]))) == ""


def test_without_ours_and_without_anything():
    assert said([VANILLA, make_arm("infobatch", 0.91, 0.5)]) == (
        "infobatch is the most accurate of 2 arms: 91.0 % with 50 % of the samples; vanilla "
        "reaches 90.3 %"
    )
    level = [VANILLA, make_arm("infobatch", 0.903, 0.5), make_arm("random", 0.88, 0.5, collapsed=2)]
    assert said(level) == (
        "infobatch, level at the top with vanilla: 90.3 % with 50 % of the samples; runs of "
        "random collapsed or failed"
    )
    empty = make_arm("vanilla", 0.9)
    empty["accuracy"] = {"mean": None, "ci95": None, "values": [None]}
    assert said([empty]) == "digits: no run has given an accuracy yet"
