from __future__ import annotations

import pytest

from benchmarks.timing import CASES, Case, Measurement, find_case
from benchmarks.timing.ledger import MUST
from benchmarks.timing.runners import RUNNERS
from frugalkd.errors import UnknownName
from frugalkd.experiments.recipes.load import load_recipe, override

TIMED = [case for case in CASES if isinstance(case, Case)]


@pytest.mark.parametrize("case", TIMED, ids=lambda case: case.name)
def test_arms_and_ratios_are_consistent(case):
    names = [arm.name for arm in case.arms]
    assert len(set(names)) == len(names)
    for arm in case.arms:
        assert arm.runner in RUNNERS
        recipe = override(load_recipe(arm.recipe or case.recipe), {**case.set, **arm.set})
        role = recipe.teacher if arm.runner == "teach" else recipe.student
        assert arm.part is None or (arm.constant and arm.part < role.training.epochs)
    for ratio in case.ratios:
        assert {ratio.over, ratio.under} <= set(names)
        if ratio.must is not None and ratio.aim is not None:
            assert (ratio.aim < ratio.must) is ratio.at_most


def test_the_recipes_of_teachers_are_valid():
    for case in TIMED:
        if case.teacher is not None:
            override(load_recipe(case.teacher.recipe), case.teacher.set)


def test_the_bounds_of_the_ledger_case():
    ledger = find_case("ledger", CASES)
    assert isinstance(ledger, Measurement)
    bounds = {
        figure.name: ("<=" if figure.at_most else ">=", figure.must)
        for figure in ledger.figures
        if figure.must is not None
    }
    assert bounds == MUST
    assert bounds == {
        "bytes": ("<=", 20),
        "observe_logits": (">=", 2e6),
        "observe_verdicts": (">=", 8e6),
        "plan_12": ("<=", 3),
        "plan_all": ("<=", 10),
        "save_ratio": ("<=", 1.5),
    }


def test_unknown_names_list_the_nearest():
    with pytest.raises(UnknownName, match=r"^unknown case 'lop': did you mean loop\?$"):
        find_case("lop", CASES)
    case = find_case("a", CASES)
    assert isinstance(case, Case)
    assert case.arm("regulated").name == "regulated"
    with pytest.raises(UnknownName, match=r"^unknown arm of case a 'regulatd': did you mean reg"):
        case.arm("regulatd")
