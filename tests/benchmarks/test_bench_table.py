from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.timing import CASES, Measurement
from benchmarks.timing.table import case_view, figure, plan_view, seconds


def shown(view):
    out = io.StringIO()
    Console(file=out, width=80).print(view)
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    return text


def value(number):
    return {"median": number, "min": number / 2, "max": number * 2, "n": 3}


def bounds(number, must=None, aim=None, reached=None):
    return {"value": value(number), "must": must, "aim": aim, "at_most": False,
            "reached": {"must": reached, "aim": False}}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_case_fits_80_columns(case):
    measured = isinstance(case, Measurement)
    content = {
        "case": case.name, "summary": case.summary, "threads": 2, "quick": True,
        "per_rows": not measured and case.per_rows,
        "arms": [] if measured else [
            {"arm": arm.name, "scaled": arm.part is not None, "seconds": value(1234.0),
             "seconds_per_1000": value(0.0123), "budget": value(0.5),
             "accuracy": value(0.9) if arm.part is None else None}
            for arm in case.arms
        ],
        "ratios": [] if measured else [
            {"ratio": ratio.name, **bounds(12.34, 12, 18, True)} for ratio in case.ratios
        ],
        "figures": [
            {"about": each.about, **bounds(2.5e6, 2e6, None, True)} for each in case.figures
        ] if measured else [],
    }  # fmt: skip
    text = " ".join(shown(case_view(content)).split())
    assert "not a result" in text
    assert "2 threads" in text
    assert ("≥ 2 M yes" if measured else "0.0123" if case.per_rows else "1,234") in text
    if not measured and any(arm.part for arm in case.arms):
        assert "only some epochs were run" in text
    if not measured:
        assert "≥ 12 yes ≥ 18 no" in text


def plan(*arms, **more):
    runs = [
        {
            "arm": f"arm-{place}",
            "epochs": of and 6,
            "of": of,
            "runs": 3,
            "done": done,
            "seconds": known,
        }
        for place, (of, done, known) in enumerate(arms)
    ]
    return {"case": "a", "quick": False, "takes": "3 hours", "samples": None, "teacher": None,
            "arms": runs, **more}  # fmt: skip


def test_a_plan_estimates_the_time():
    text = shown(plan_view(plan((24, 1, 100.0), (6.0, 2, 40.0))))
    assert "a: 3 runs to do, about 4 minutes, from finished runs" in text
    assert "6 of 24" in text
    unknown = plan((24, 0, None), (6, 2, 40.0), teacher={"name": "t", "there": False})
    text = shown(plan_view(unknown))
    assert "a: 4 runs to do; the complete case takes about 3 hours on one core" in text
    assert "first: teacher t is trained" in text
    assert "a: 0 runs to do\n" in shown(plan_view(plan((6, 3, 5.0)))).replace(" \n", "\n")
    assert "3 runs to do, a few minutes" in shown(plan_view(plan((6, 0, None), quick=True)))
    assert "on 1,000 samples" in shown(plan_view(plan((None, 0, None), samples=1000)))


def test_numbers_have_significant_digits():
    assert [seconds(n) for n in (1234.5, 12.34, 1.234, 0.01234)] == [
        "1,234",
        "12.3",
        "1.23",
        "0.0123",
    ]
    assert [figure(n) for n in (12.34, 1.0123, 2.345, 0.5)] == ["12.3", "1.012", "2.35", "0.50"]
    assert [figure(n) for n in (0.1, 0.099, 0.00089, 0.0)] == ["0.10", "0.099", "0.00089", "0.00"]
    assert [figure(n) for n in (999.4, 999.6, 2e6, 8.34e6, 999.9e3)] == [
        "999.4", "1 k", "2 M", "8.34 M", "1 M",
    ]  # fmt: skip
