"""What may be said of accuracies over seeds: intervals, paired differences, claims."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from frugalkd.errors import RecipeError, ReportError, SettingError, UnknownName
from frugalkd.experiments.comparison.controls import TOLERANCE
from frugalkd.runtime.imports import require_extra

CONFIDENCE = 0.95
BUDGET_TOLERANCE = 0.02
"""How far an arm's samples may lie from the budget that it was asked for, as a part of it."""

CLAIM_SEEDS = 10
"""Seeds that a claim needs; fewer only describe."""

MARGIN = 0.005
"""Of accuracy: what "no worse" may lose, unless another margin is declared."""

Claim = tuple[str, str, Literal["better", "no worse"]]
"""(arm, the arm it is set against, what is claimed)."""


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
    mean = float(np.mean(known)) if known else None
    return {"mean": mean, "ci95": interval(known), "values": list(values)}


def differences(
    ours: dict[int, float | None], theirs: dict[int, float | None]
) -> tuple[list[int], list[float]]:
    """Seeds that both have a value for, and ours minus theirs for each."""
    pairs = [
        (seed, mine - other)
        for seed, mine in ours.items()
        if mine is not None and (other := theirs.get(seed)) is not None
    ]
    return [seed for seed, _ in pairs], [difference for _, difference in pairs]


def claims(
    comparison: dict[str, Any], pairs: Sequence[Claim], margin: float = MARGIN
) -> list[dict[str, Any]]:
    """Test claims that were declared beforehand, corrected by Holm over all of ``pairs``.

    The test is a t-test of the paired differences of accuracy (two-sided, the interval's dual):
    *better* holds if they lie above 0, *no worse* if they lie above ``-margin``; in both cases the
    whole 95 % interval must, and so must the corrected p-value be at most 0.05. A claim on fewer
    than ten seeds, with a run that gave no accuracy, or of being better with more samples, does not
    hold, whatever the numbers are.

    Args:
        comparison: the content of ``comparison.json``.
        pairs: (arm, against, ``"better"`` or ``"no worse"``).
        margin: of accuracy, in [0, 1].

    Returns:
        A dict a claim: arm, against, claim, margin, seeds, difference (mean, ci95), p, p_holm,
        holds, why.

    Raises:
        UnknownName: an arm that the comparison does not have.
        ReportError: the extra ``report`` is not installed.
        SettingError: another claim than those two.
    """
    require_statistics()
    from statsmodels.stats.multitest import multipletests

    if not pairs:
        return []
    tested = [_test(comparison, *pair, margin=margin) for pair in pairs]
    corrected = np.asarray(multipletests([test["p"] for test in tested], method="holm")[1])
    for test, p_holm in zip(tested, corrected, strict=True):
        test["p_holm"] = float(p_holm)
        reasons = test.pop("reasons")
        if p_holm > 1 - CONFIDENCE:
            reasons.append(f"corrected p = {p_holm:.3g}")
        test["holds"] = not reasons
        test["why"] = "; ".join(reasons)
    return tested


def _test(
    comparison: dict[str, Any], arm: str, against: str, claim: str, *, margin: float
) -> dict[str, Any]:
    if claim not in ("better", "no worse"):
        raise SettingError(f"a claim is 'better' or 'no worse', not {claim!r}")
    ours, theirs = accuracies(comparison, arm), accuracies(comparison, against)
    seeds, found = differences(ours, theirs)
    floor = 0.0 if claim == "better" else -margin
    ci95 = interval(found)
    reasons = []
    more = _more_samples(comparison, arm, against)
    if claim == "better" and more is not None:
        reasons.append(more)
    if len(seeds) < CLAIM_SEEDS:
        reasons.append(f"{len(seeds)} of the {CLAIM_SEEDS} seeds that a claim needs")
    missing = sorted((set(ours) | set(theirs)) - set(seeds))
    if missing:
        reasons.append(f"no pair of accuracies for seeds {', '.join(map(str, missing))}")
    if ci95 is None or ci95[0] <= floor:
        reasons.append(f"the interval reaches {'0' if claim == 'better' else 'the margin'}")
    return {
        "arm": arm,
        "against": against,
        "claim": claim,
        "margin": margin if claim == "no worse" else None,
        "seeds": seeds,
        "difference": {"mean": float(np.mean(found)) if found else None, "ci95": ci95},
        "p": _p_value(found, floor),
        "reasons": reasons,
    }


def _more_samples(comparison: dict[str, Any], arm: str, against: str) -> str | None:
    """Why "better" would say nothing: the arm spends more samples than the other."""
    budgets = {row["arm"]: row.get("budget", {}).get("mean") for row in comparison["arms"]}
    ours, theirs = budgets.get(arm), budgets.get(against)
    if not ours or not theirs or ours <= (1 + TOLERANCE) * theirs:
        return None
    return f"it spends {ours:.1%} of the samples, the other {theirs:.1%}"


def frontier(points: Sequence[tuple[float | None, float | None]], alike: float = 0.0) -> list[bool]:
    """Which of the points (cost, accuracy) no other beats: none costs as little or less and is as
    accurate or more, one of both strictly. A point that lacks one of the two is on no frontier.

    ``alike``: costs that differ by no more than this part of them count as the same, since a budget
    is spent in whole batches.
    """

    def beats(other: tuple[float | None, float | None], cost: float, accuracy: float) -> bool:
        if other[0] is None or other[1] is None:
            return False
        if other[0] > cost * (1 + alike) or other[1] < accuracy:
            return False
        return other[0] * (1 + alike) < cost or other[1] > accuracy

    return [
        cost is not None
        and accuracy is not None
        and not any(beats(other, cost, accuracy) for other in points)
        for cost, accuracy in points
    ]


def parse_claim(said: str) -> Claim:
    """``"A > B"`` (better) or ``"A >= B"`` (no worse) as a claim.

    Raises:
        RecipeError: it is neither.
    """
    found = re.fullmatch(r"\s*([^\s<>=]+)\s*(>=|>)\s*([^\s<>=]+)\s*", said)
    if found is None:
        raise RecipeError(f"claim {said!r}: write 'A > B' (better) or 'A >= B' (no worse)")
    return found[1], found[3], "better" if found[2] == ">" else "no worse"


def _p_value(values: Sequence[float], floor: float) -> float:
    """Two-sided p of "the mean is ``floor``"; 1 where nothing speaks against it."""
    from scipy import stats

    if len(values) < 2:
        return 1.0
    if np.ptp(values) < 1e-12:  # no spread at all: the t statistic is 0/0 or infinite
        return 0.0 if abs(values[0] - floor) > 1e-12 else 1.0
    return float(stats.ttest_1samp(values, floor).pvalue)  # pyright: ignore


def accuracies(comparison: dict[str, Any], arm: str) -> dict[int, float | None]:
    """Accuracy by seed of one arm of a comparison; None for a run that gave none.

    Raises:
        UnknownName: the comparison has no such arm.
    """
    rows = {row["arm"]: row for row in comparison["arms"]}
    if arm not in rows:
        raise UnknownName("arm", arm, rows)
    return dict(zip(rows[arm]["seeds"], rows[arm]["accuracy"]["values"], strict=True))
