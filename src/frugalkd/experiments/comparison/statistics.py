"""Statistics of accuracies over seeds: intervals, paired differences, claims."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from frugalkd.errors import RecipeError, ReportError, SettingError, UnknownName
from frugalkd.runtime.imports import require_extra

CONFIDENCE = 0.95
TOLERANCE = 0.005
"""How far a control's samples may be from those of the run that it matches, as a fraction."""

BUDGET_TOLERANCE = 0.02
"""How far an arm's samples may be from the budget that was set for it, as a fraction of it."""

CLAIM_SEEDS = 10
"""Seeds that a claim needs; fewer only describe."""

MARGIN = 0.005
"""Of accuracy: the default margin of "no worse"."""


class Claim(NamedTuple):
    """That ``arm`` is better than ``against``, or worse by no more than ``margin`` (of accuracy, in
    [0, 1])."""

    arm: str
    against: str
    claim: Literal["better", "no worse"]
    margin: float = MARGIN


def require_statistics() -> None:
    """Raises ReportError if the packages that compute intervals and tests are not installed."""
    needs = "comparisons need scipy and statsmodels"
    require_extra("report", needs, ReportError, "scipy", "statsmodels")


def interval(values: Sequence[float]) -> list[float] | None:
    """The 95 % t-interval ``[low, high]`` of the mean; None for fewer than two values."""
    from scipy import stats  # takes a second to import, which --help and workers do without

    if len(values) < 2:
        return None
    mean = float(np.mean(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))
    return [mean - half, mean + half]


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """``{"mean", "ci95", "values"}``; None stands for a run that gave no value."""
    known = [value for value in values if value is not None]
    return {**mean_interval(known), "values": list(values)}


def mean_interval(values: Sequence[float]) -> dict[str, Any]:
    """``{"mean", "ci95"}``; None where there are too few values."""
    return {"mean": float(np.mean(values)) if values else None, "ci95": interval(values)}


def differences(
    ours: Mapping[int, float | None], theirs: Mapping[int, float | None]
) -> tuple[list[int], list[float]]:
    """Seeds that both have a value for, and ours minus theirs for each."""
    pairs = [
        (seed, mine - other)
        for seed, mine in ours.items()
        if mine is not None and (other := theirs.get(seed)) is not None
    ]
    return [seed for seed, _ in pairs], [difference for _, difference in pairs]


def claims(comparison: dict[str, Any], declared: Sequence[Claim]) -> list[dict[str, Any]]:
    """Test claims that were declared beforehand, corrected by Holm over all of them.

    The test is a t-test of the paired differences of accuracy: *better* holds if they lie above 0
    (two-sided, the interval's dual), *no worse* if they lie above ``-margin`` (one-sided); in both
    cases the whole 95 % interval must, and so must the corrected p-value be at most 0.05. A claim
    on fewer than ten seeds, with a run that gave no accuracy, or of being better with more samples,
    does not hold, whatever the numbers are.

    Args:
        comparison: the content of ``comparison.json``.
        declared: the claims.

    Returns:
        A dict a claim: arm, against, claim, margin, seeds, difference (mean, ci95), p, p_holm,
        holds, why.

    Raises:
        UnknownName: an arm that the comparison does not have.
        ReportError: the extra ``report`` is not installed.
        SettingError: another claim than those two.
    """
    return claims_together([(comparison, declared)])


def claims_together(
    declared: Sequence[tuple[dict[str, Any], Sequence[Claim]]],
) -> list[dict[str, Any]]:
    """:func:`claims` of several comparisons, corrected by Holm over all of them."""
    require_statistics()
    from statsmodels.stats.multitest import multipletests

    tested = [_test(comparison, claim) for comparison, own in declared for claim in own]
    if not tested:
        return []
    corrected = np.asarray(multipletests([test["p"] for test, _ in tested], method="holm")[1])
    for (test, reasons), p_holm in zip(tested, corrected, strict=True):
        if p_holm > 1 - CONFIDENCE:
            reasons.append(f"corrected p = {p_holm:.3g}")
        test |= {"p_holm": float(p_holm), "holds": not reasons, "why": "; ".join(reasons)}
    return [test for test, _ in tested]


def _test(comparison: dict[str, Any], declared: Claim) -> tuple[dict[str, Any], list[str]]:
    """The claim's test, and why it does not hold."""
    arm, against, claim, margin = declared
    if claim not in ("better", "no worse"):
        raise SettingError(f"a claim is 'better' or 'no worse', not {claim!r}")
    better = claim == "better"
    ours, theirs = accuracies(comparison, arm), accuracies(comparison, against)
    seeds, found = differences(ours, theirs)
    floor = 0.0 if better else -margin
    difference = mean_interval(found)
    ci95, reasons = difference["ci95"], []
    budgets = {row["arm"]: row.get("budget", {}).get("mean") for row in comparison["arms"]}
    spent, other = budgets[arm], budgets[against]
    if better and spent and other and spent > (1 + TOLERANCE) * other:
        reasons.append(f"it spends {spent:.1%} of the samples, the other {other:.1%}")
    if len(seeds) < CLAIM_SEEDS:
        reasons.append(f"{len(seeds)} of the {CLAIM_SEEDS} seeds that a claim needs")
    missing = sorted((set(ours) | set(theirs)) - set(seeds))
    if missing:
        reasons.append(f"no pair of accuracies for seeds {', '.join(map(str, missing))}")
    if ci95 is not None and ci95[1] < floor:
        reasons.append("it is worse" if better else "it is worse by more than the margin")
    elif ci95 is None or ci95[0] <= floor:
        reasons.append(f"the interval reaches {'0' if better else 'the margin'}")
    test = {
        "arm": arm,
        "against": against,
        "claim": claim,
        "margin": None if better else margin,
        "seeds": seeds,
        "difference": difference,
        "p": _p_value(found, floor, "two-sided" if better else "greater"),
    }
    return test, reasons


def frontier(
    points: Sequence[tuple[float | None, float | None]], tolerance: float = 0.0
) -> list[bool]:
    """Which of the points (cost, accuracy) no other beats: none costs as little or less and is as
    accurate or more, one of both strictly. A point that lacks one of the two is on no frontier.

    ``tolerance``: costs that differ by no more than this fraction count as the same, since a budget
    is spent in whole batches.
    """
    costs, values = np.array(points, dtype=float).reshape(-1, 2).T  # None is NaN: beats nothing
    upper = 1 + tolerance
    beaten = (costs <= upper * costs[:, None]) & (values >= values[:, None])
    beaten &= (upper * costs < costs[:, None]) | (values > values[:, None])
    return (~beaten.any(axis=1) & ~np.isnan(costs + values)).tolist()


def parse_claim(text: str, margin: float = MARGIN) -> Claim:
    """``"A > B"`` (better) or ``"A >= B"`` (no worse) as a claim. Raises RecipeError."""
    found = re.fullmatch(r"\s*([^\s<>=]+)\s*(>=|>)\s*([^\s<>=]+)\s*", text)
    if found is None:
        raise RecipeError(f"claim {text!r}: write 'A > B' (better) or 'A >= B' (no worse)")
    return Claim(found[1], found[3], "better" if found[2] == ">" else "no worse", margin)


def _p_value(values: Sequence[float], floor: float, side: Literal["two-sided", "greater"]) -> float:
    """p of "the mean is ``floor``", or with ``greater`` "at most ``floor``"; 1 for fewer than two
    values."""
    from scipy import stats

    if len(values) < 2:
        return 1.0
    if np.ptp(values) < 1e-12:  # no spread at all: the t statistic is 0/0 or infinite
        away = values[0] - floor if side == "greater" else abs(values[0] - floor)
        return 0.0 if away > 1e-12 else 1.0
    return float(stats.ttest_1samp(values, floor, alternative=side).pvalue)  # pyright: ignore


def accuracies(comparison: dict[str, Any], arm: str) -> dict[int, float | None]:
    """Accuracy by seed of one arm of a comparison; None for a run that gave none. Raises
    UnknownName."""
    rows = {row["arm"]: row for row in comparison["arms"]}
    if arm not in rows:
        raise UnknownName("arm", arm, rows)
    return dict(zip(rows[arm]["seeds"], rows[arm]["accuracy"]["values"], strict=True))
