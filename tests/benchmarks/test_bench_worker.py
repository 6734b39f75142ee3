from __future__ import annotations

from benchmarks.timing.worker import carry_out, take_turns
from frugalkd.errors import ModelError


def test_turns_begin_with_another_run_each_round():
    order = []

    def prepared(name):
        def run():
            order.append(name)
            return {"seconds": len(order)}

        return lambda: run

    said = take_turns([prepared(name) for name in "abc"], rounds=4)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert [record["seconds"] for record in said["first"]] == [1, 2, 3]
    assert [record["seconds"] for record in said["rounds"][1]] == [9, 7, 8]
    assert said["errors"] == [None, None, None]


def test_a_run_that_fails_takes_no_further_part():
    left = [3]

    def unwell():
        left[0] -= 1
        if left[0] == 0:
            raise RuntimeError("out of luck\nand more")
        return {"seconds": 1.0}

    def impossible():
        raise ModelError("cannot be built")

    said = take_turns([lambda: unwell, impossible, lambda: lambda: {"seconds": 2.0}], rounds=3)
    assert said["errors"] == ["RuntimeError: out of luck", "cannot be built", None]
    assert said["first"] == [{"seconds": 1.0}, None, {"seconds": 2.0}]
    assert said["rounds"][0] == [{"seconds": 1.0}, None, {"seconds": 2.0}]
    assert said["rounds"][2] == [None, None, {"seconds": 2.0}]


def test_an_unexpected_error_is_one_line():
    assert carry_out({"kind": "run", "tasks": [{}]}) == {"error": "KeyError: 'runner'"}
