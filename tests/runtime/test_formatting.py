"""Numbers as a reader sees them."""

from frugalkd.runtime.formatting import duration, number, percent


def test_numbers():
    assert [percent(None), percent(0.1234), percent(0.5, 0, "")] == ["-", "12.3 %", "50"]
    assert [number(None), number(12345), number(1.5, 1)] == ["-", "12,345", "1.5"]
    times = [duration(s) for s in (None, 0.4213, 9.96, 599, 600, 7500)]
    assert times == ["-", "0.42 s", "10 s", "599 s", "10 min", "2 h 5 min"]
