from __future__ import annotations

from benchmarks.timing.worker import interleave, run_job
from frugalkd.errors import ModelError


def test_the_order_rotates_each_round():
    order = []

    def prepared(name):
        def run():
            order.append(name)
            return {"seconds": len(order)}

        return lambda: run

    results = interleave([prepared(name) for name in "abc"], rounds=4)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert [record["seconds"] for record in results["first"]] == [1, 2, 3]
    assert [record["seconds"] for record in results["rounds"][1]] == [9, 7, 8]
    assert results["errors"] == [None, None, None]


def test_a_failed_run_is_not_repeated():
    left = [3]

    def unreliable():
        left[0] -= 1
        if left[0] == 0:
            raise RuntimeError("out of luck\nand more")
        return {"seconds": 1.0}

    def impossible():
        raise ModelError("cannot be built")

    results = interleave(
        [lambda: unreliable, impossible, lambda: lambda: {"seconds": 2.0}], rounds=3
    )
    assert results["errors"] == ["RuntimeError: out of luck", "cannot be built", None]
    assert results["first"] == [{"seconds": 1.0}, None, {"seconds": 2.0}]
    assert results["rounds"][0] == [{"seconds": 1.0}, None, {"seconds": 2.0}]
    assert results["rounds"][2] == [None, None, {"seconds": 2.0}]


def test_an_unexpected_error_is_one_line():
    assert run_job({"kind": "run", "tasks": [{}]}) == {"error": "KeyError: 'runner'"}
