"""The result of a comparison, or of a run, in one sentence, favourable or not."""

from __future__ import annotations

import math
from collections.abc import Sequence

from frugalkd.experiments.comparison.statistics import BUDGET_TOLERANCE, MARGIN, differences
from frugalkd.experiments.report.blocks import inline, number, percent, seconds
from frugalkd.experiments.runs.schema import ArmRecord, Comparison, RunRecord, called, section

_MODES = ("significance", "regulated", "hybrid")
_ROUNDING = 1e-9
"""A mean of differences that is smaller counts as none."""
_USUAL = "kd"
"""The objective that the headline does not name."""
_RANDOM = ("random", "random-static")


def chosen(comparison: Comparison) -> ArmRecord | None:
    """The arm of the headline: of the arms with one of frugalkd's modes that spend less than the
    reference, the one that takes the least time (where that is not known, the fewest samples) among
    those within ``MARGIN`` of the reference's mean accuracy; if there is none, the most accurate
    one. Arms with a random control at the same count go before those without. None if no arm has
    such a mode."""
    reference = comparison.named(comparison.reference)
    full = 1.0 if reference is None else reference.budget.mean or 1.0
    candidates = [
        arm
        for arm in comparison.arms
        if arm.mode in _MODES
        and arm.accuracy.mean is not None
        and arm.budget.mean is not None
        and arm.budget.mean < full
        and arm is not reference
    ]
    if not candidates:
        return None
    good = [arm for arm in candidates if _is_as_good(arm, reference)]
    candidates = good or candidates
    candidates = [arm for arm in candidates if random_of(comparison, arm)] or candidates
    if not good:
        mean = _means(candidates)
        return max(candidates, key=lambda arm: mean[arm.arm] or 0.0)
    return min(candidates, key=lambda arm: arm.wall_ratio.mean or arm.budget.mean or 0.0)


def _is_as_good(arm: ArmRecord, reference: ArmRecord | None) -> bool:
    gap = None if reference is None else _gap(arm, reference)
    return gap is None or gap >= -MARGIN - _ROUNDING


def _gap(arm: ArmRecord, other: ArmRecord) -> float | None:
    """The mean of ``arm``'s accuracy minus ``other``'s, over the seeds that both have; None where
    there is no such seed."""
    _, found = differences(arm.accuracies(), other.accuracies())
    return math.fsum(found) / len(found) if found else None


def random_of(comparison: Comparison, arm: ArmRecord) -> ArmRecord | None:
    """The arm that draws as many samples as ``arm`` trains on at random, or None."""
    known = {other.arm: other for other in comparison.arms if other.accuracy.mean is not None}
    own = {other.control: other for other in known.values() if other.control_of == arm.arm}
    controls = [own[kind] for kind in _RANDOM if kind in own]
    if not controls and arm.target_budget is not None:
        return known.get(f"random@{arm.target_budget:g}")
    return controls[0] if controls else None


def headline(comparison: Comparison) -> str:
    """Accuracy, samples and time of the arm :func:`chosen`, against the reference and against
    random at the same count; an arm that does better with no more samples is named. For an
    unfinished comparison the sentence begins with how much of it is complete."""
    done = comparison.complete_seeds
    if comparison.complete or done is None:
        return _sentence(comparison)
    return f"{len(done)} of {len(comparison.seeds)} seeds complete; {_sentence(comparison)}"


def _sentence(comparison: Comparison) -> str:
    reference = comparison.named(comparison.reference)
    arm = chosen(comparison)
    if arm is None:
        return _most_accurate(comparison, reference)
    random = random_of(comparison, arm)
    named = [each for each in (arm, reference, random) if each is not None]
    mean = _means(named)
    said = f"{inline(arm.arm)}: {percent(mean[arm.arm])}"
    said += f" with {percent(arm.budget.mean, 0)} of the samples"
    if reference is not None and arm.cost.mean is not None and reference.cost.mean:
        said += f", {percent(arm.cost.mean / reference.cost.mean, 0)} of the cost"
    if arm.wall_ratio.mean is not None:
        said += f" and {percent(arm.wall_ratio.mean, 0)} of the time"
    if reference is not None:
        full = "full distillation" if reference.arm == "vanilla" else inline(reference.arm)
        said += f" of {full}, which reaches {percent(mean[reference.arm])}"
    if random is None:
        said += "; random at the same count was not run"
    else:
        gap = _gap(random, arm) or 0.0
        how = " does better" if gap > _ROUNDING else " does as well" if gap >= -_ROUNDING else ""
        said += f"; random at the same count{how}: {percent(mean[random.arm])}"
    return said + _against_rivals(comparison, arm, random) + _collapsed(named)


def _means(arms: Sequence[ArmRecord]) -> dict[str, float | None]:
    """Of each arm's accuracy, over the seeds that all of them have; over its own, where there is no
    such seed (which the table of arms shows)."""
    known = [arm.accuracies() for arm in arms]
    seeds = set(known[0]).intersection(*known[1:])
    return {
        arm.arm: math.fsum(of[seed] for seed in seeds) / len(seeds) if seeds else arm.accuracy.mean
        for arm, of in zip(arms, known, strict=True)
    }


def _against_rivals(comparison: Comparison, arm: ArmRecord, random: ArmRecord | None) -> str:
    """An arm without one of frugalkd's modes that is more accurate with no more samples."""
    most = (arm.budget.mean or 0.0) * (1 + BUDGET_TOLERANCE)
    known = [each for each in (arm, random) if each is not None]
    better = [
        other
        for other in comparison.arms
        if other is not random
        and other.mode not in _MODES
        and other.arm != comparison.reference
        and all((_gap(other, each) or 0.0) > _ROUNDING for each in known)
        and other.budget.mean is not None
        and other.budget.mean <= most
    ]
    if not better:
        return ""
    best = max(better, key=lambda other: _gap(other, arm) or 0.0)
    accuracy = percent(_means([best, arm])[best.arm])
    return f"; {inline(best.arm)} does better with no more samples: {accuracy}"


def _most_accurate(comparison: Comparison, reference: ArmRecord | None) -> str:
    known = [arm for arm in comparison.arms if arm.accuracy.mean is not None]
    if not known and comparison.runs is not None and comparison.runs.done:
        return f"{inline(comparison.name)}: the arms have finished no seed in common yet"
    if not known:
        return f"{inline(comparison.name)}: no run has given {inline(comparison.a_measure)} yet"
    mean = _means(known)
    best = max(known, key=lambda arm: mean[arm.arm] or 0.0)
    level = [arm for arm in known if _is_level(arm, best)]
    best = min(level, key=lambda arm: arm.budget.mean or 0.0)
    arms = len(comparison.arms)
    most = "the most accurate" if comparison.measure == "accuracy" else "the best"
    rank = f" is {most} of {arms} arms" if arms > 1 else ", the only arm so far"
    if len(level) > 1:
        others = [inline(arm.arm) for arm in level if arm is not best]
        rank = f", level at the top with {' and '.join(others)}"
    said = f"{inline(best.arm)}{rank}: "
    said += f"{percent(mean[best.arm])} with {percent(best.budget.mean, 0)} of the samples"
    if reference in known and reference not in level:
        said += f"; {inline(reference.arm)} reaches {percent(mean[reference.arm])}"
    return said + _collapsed(known)


def _is_level(arm: ArmRecord, best: ArmRecord) -> bool:
    gap = _gap(arm, best)
    return arm is best or (gap is not None and abs(gap) <= _ROUNDING)


def _collapsed(arms: Sequence[ArmRecord]) -> str:
    names = ", ".join(inline(arm.arm) for arm in arms if arm.collapsed)
    return f"; runs of {names} collapsed or failed" if names else ""


def how_chosen(comparison: Comparison) -> str:
    """The arm that the headline names, and why."""
    arm = chosen(comparison)
    if arm is None:
        return ""
    about = inline(arm.about) or "an arm of this comparison"
    to_spend = "" if arm.target_budget is None else f", with {100 * arm.target_budget:g} % to spend"
    mean = "mean accuracy" if comparison.measure == "accuracy" else inline(comparison.measure)
    near = f"within {100 * MARGIN:g} points of the {mean} of {inline(comparison.reference)}"
    if _is_as_good(arm, comparison.named(comparison.reference)):
        why = f"it takes the least time of frugalkd's modes {near}"
    else:
        best = "the most accurate" if comparison.measure == "accuracy" else "the best"
        why = f"none of frugalkd's modes is {near}, and it is {best} of them"
    return (
        f"{inline(arm.arm)}: {about}{to_spend}. It is named because {why} (those with a random "
        "control come first). It was chosen from these very results."
    )


def run_headline(run: RunRecord) -> str:
    """One sentence about a single run, which is compared with nothing."""
    what = f"{inline(run.recipe.get('name', ''))}, {_mode(run)}"
    measured = "was not measured"
    if run.evaluation is not None:
        held = f"{number(run.evaluation.samples)} {run.split} samples"
        name, value = run.evaluation.quality
        measured = f"gets {percent(value)} of {held} right"
        if name == "mean cosine":
            measured = f"has a {name} of {number(value, 3)} with the teacher on {held}"
        elif run.evaluation.perplexity is not None:
            tokens = number(run.evaluation.tokens or 0)
            measured = (
                f"has a perplexity of {number(run.evaluation.perplexity, 2)} on {tokens} tokens"
            )
        elif name != "accuracy":
            article = "an" if name == "R2" else "a"
            measured = f"has {article} {name} of {number(value, 4)} on {held}"
    share, of = (
        (run.budget, "samples") if run.token_budget is None else (run.token_budget, "tokens")
    )
    spent = f"backpropagated {percent(share, 0)} as many {of} as full training"
    time = seconds(run.meters.wall_seconds)
    return f"{what}: the {role_of(run)} {measured}, and {spent}, in {time}"


def role_of(run: RunRecord) -> str:
    """The model that the run trained: ``teacher`` or ``student``."""
    return "teacher" if run.kind == "teach" else "student"


def _mode(run: RunRecord) -> str:
    role = section(run.recipe, role_of(run))
    objective = called(role, "objective") or _USUAL
    plain = run.kind == "teach" or objective == _USUAL
    other = "" if plain else f" with {inline(objective)}"
    return inline(role.get("mode") or called(role, "policy") or run.kind) + other
