"""What a comparison, or a run, comes to in one sentence, whoever it flatters."""

from __future__ import annotations

from frugalkd.comparison.statistics import BUDGET_TOLERANCE, MARGIN
from frugalkd.report.shapes import Arm, Comparison, Run, section
from frugalkd.report.text import inline, number, percent, seconds

_OURS = ("significance", "regulated", "hybrid")
_USUAL = "kd"
"""The objective that goes without saying."""
_RANDOM = ("random", "random-counts", "random-static")


def chosen(comparison: Comparison) -> Arm | None:
    """The arm that the headline speaks of: of those with a mode of ours that spend less than the
    reference the one that takes the least time (where that is not known, the fewest samples) among
    those within ``MARGIN`` of the reference's mean accuracy; where none is, the most accurate one.
    Arms with a random control at the same count go before those without. None where there is none
    of ours."""
    reference = comparison.named(comparison.reference)
    full = 1.0 if reference is None else reference.budget.mean or 1.0
    ours = [
        arm
        for arm in comparison.arms
        if arm.mode in _OURS
        and arm.accuracy.mean is not None
        and arm.budget.mean is not None
        and arm.budget.mean < full
        and arm is not reference
    ]
    if not ours:
        return None
    good = [arm for arm in ours if _accuracy(arm) >= _floor(comparison)]
    candidates = good or ours
    # What has a control says more.
    candidates = [arm for arm in candidates if random_of(comparison, arm)] or candidates
    if good:
        return min(candidates, key=lambda arm: (_time(arm), arm.budget.mean or 0.0))
    return max(candidates, key=_accuracy)


def _floor(comparison: Comparison) -> float:
    """Accuracy from which an arm is as good as the reference."""
    reference = comparison.named(comparison.reference)
    if reference is None or reference.accuracy.mean is None:
        return float("-inf")
    return reference.accuracy.mean - MARGIN


def random_of(comparison: Comparison, arm: Arm) -> Arm | None:
    """The arm that draws as many samples as ``arm`` trains on at random, or None."""
    controls = [
        other
        for kind in _RANDOM
        for other in comparison.arms
        if other.control == kind and other.control_of == arm.arm
    ]
    if arm.budget_asked is not None:
        at_budget = comparison.named(f"random@{arm.budget_asked:g}")
        controls += [at_budget] if at_budget is not None else []
    return next((other for other in controls if other.accuracy.mean is not None), None)


def headline(comparison: Comparison) -> str:
    """One sentence: accuracy, samples and time of the arm :func:`chosen`, against the reference and
    against random at the same count; an arm that does better with no more samples is named."""
    reference = comparison.named(comparison.reference)
    arm = chosen(comparison)
    if arm is None:
        return _without_ours(comparison, reference)
    full = (
        "full distillation" if comparison.reference == "vanilla" else inline(comparison.reference)
    )
    said = f"{inline(arm.arm)}: {percent(arm.accuracy.mean)} with {_cost(arm)}"
    if reference is not None:
        said += f" of {full}, which reaches {percent(reference.accuracy.mean)}"
    return said + _against_random(comparison, arm) + _against_rivals(comparison, arm)


def _cost(arm: Arm) -> str:
    said = f"{percent(arm.budget.mean, 0)} of the samples"
    time = arm.wall_ratio.mean
    return said if time is None else f"{said} and {percent(time, 0)} of the time"


def _against_random(comparison: Comparison, arm: Arm) -> str:
    random = random_of(comparison, arm)
    if random is None:
        return "; random at the same count was not run"
    accuracy = percent(random.accuracy.mean)
    if _accuracy(random) > _accuracy(arm):
        return f"; random at the same count does better: {accuracy}"
    if _accuracy(random) == _accuracy(arm):
        return f"; random at the same count does as well: {accuracy}"
    return f"; random at the same count: {accuracy}"


def _against_rivals(comparison: Comparison, arm: Arm) -> str:
    """Another arm, not of ours, that is more accurate with as many samples or fewer."""
    most = (arm.budget.mean or 0.0) * (1 + BUDGET_TOLERANCE)
    known = random_of(comparison, arm)
    better = [
        other
        for other in comparison.arms
        if other is not known
        and other.mode not in _OURS
        and other.arm != comparison.reference
        and _accuracy(other) > max(_accuracy(arm), _accuracy(known) if known else 0.0)
        and other.budget.mean is not None
        and other.budget.mean <= most
    ]
    if not better:
        return ""
    best = max(better, key=_accuracy)
    return f"; {inline(best.arm)} does better with no more samples: {percent(best.accuracy.mean)}"


def _without_ours(comparison: Comparison, reference: Arm | None) -> str:
    known = [arm for arm in comparison.arms if arm.accuracy.mean is not None]
    if not known:
        return f"{inline(comparison.name)}: no run has given an accuracy yet"
    best = max(known, key=_accuracy)
    said = f"{inline(best.arm)} is the most accurate of {len(comparison.arms)} arms: "
    said += f"{percent(best.accuracy.mean)} with {percent(best.budget.mean, 0)} of the samples"
    if reference is not None and best is not reference:
        said += f"; {inline(reference.arm)} reaches {percent(reference.accuracy.mean)}"
    return said


def _time(arm: Arm) -> float:
    ratio = arm.wall_ratio.mean
    return (arm.budget.mean or 0.0) if ratio is None else ratio


def _accuracy(arm: Arm) -> float:
    return -1.0 if arm.accuracy.mean is None else arm.accuracy.mean


def how_chosen(comparison: Comparison) -> str:
    """What the arm is that the headline speaks of, and why that one."""
    arm = chosen(comparison)
    if arm is None:
        return ""
    about = inline(arm.about) or "an arm of this comparison"
    asked = "" if arm.budget_asked is None else f", with {100 * arm.budget_asked:g} % to spend"
    near = f"within {100 * MARGIN:g} points of the mean accuracy of {inline(comparison.reference)}"
    if _accuracy(arm) >= _floor(comparison):
        why = f"it takes the least time of frugalkd's modes {near}"
    else:
        why = f"none of frugalkd's modes is {near}, and it is the most accurate of them"
    return (
        f"{inline(arm.arm)}: {about}{asked}. It is named because {why} (those with a random "
        "control come first). It was chosen from these very results."
    )


def run_headline(run: Run) -> str:
    """One sentence about a single run, which is compared with nothing."""
    what = f"{inline(run.recipe.get('name', ''))}, {_mode(run)}"
    measured = "was not measured"
    if run.evaluation is not None:
        held = f"{number(run.evaluation.samples)} {run.split} samples"
        measured = f"gets {percent(run.evaluation.accuracy)} of {held} right"
    spent = f"{percent(run.budget, 0)} of the samples of full training"
    time = seconds(run.meters.wall_seconds)
    return f"{what}: the {role_of(run)} {measured}, trained on {spent} in {time}"


def role_of(run: Run) -> str:
    """Whom the run trained: ``teacher`` or ``student``."""
    return "teacher" if run.kind == "teach" else "student"


def _mode(run: Run) -> str:
    role = section(run.recipe, role_of(run))
    objective = section(role, "objective").get("name", _USUAL)
    plain = run.kind == "teach" or objective == _USUAL
    other = "" if plain else f" with {inline(objective)}"
    return inline(role.get("mode") or section(role, "policy").get("name") or run.kind) + other
