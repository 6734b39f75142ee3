"""What a terminal shows: names are names, whatever is in them, and everything fits."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from frugalkd.cli.running import Bar
from frugalkd.cli.show import (
    TextTable,
    comparison_table,
    facts_table,
    ledger_view,
    print_line,
    print_result,
)

HOSTILE = [
    "[red]",
    "[/]",
    "[link=http://x]y[/link]",
    ":warning:",
    "\x1b[31m\x1b]0;title\x07",
    "\x9b31m",
    "a\nfailed: b\r\tc",
    "\u202eright to left",
    "{task.completed}",
    "\udcff",
    "x" * 10_000,
]


def shown(draw, terminal=False):
    file = io.StringIO()
    draw(Console(file=file, width=80, force_terminal=terminal, color_system=None, highlight=False))
    return file.getvalue()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_in_a_table_is_a_name(name, capsys):
    def draw(console):
        table = TextTable("heading", name, title=name)
        table.add_row(name, "its neighbour")
        console.print(table)
        console.print(facts_table(name, {name[:20]: name}))
        print_line(console, name)

    print_result(False, None, following=name)
    following = capsys.readouterr().out
    assert following.startswith("next: ")
    assert len(following.splitlines()) == 1
    text = shown(draw) + following
    lines = text.splitlines()
    assert all(sign.isprintable() for sign in text if sign != "\n")
    text.encode("utf-8")
    if len(name) < 1000:
        assert max(map(cell_len, lines)) <= 80
    if name.isprintable() and len(name) < 40:
        assert text.count(name) >= 7  # neither taken for markup, nor for an emoji
    assert not any(line.startswith("failed") for line in lines)


@pytest.mark.parametrize("name", HOSTILE)
def test_classes_arms_and_recipes_may_be_called_anything(name):
    ledger = {
        "samples": 10, "epochs": 2.0, "mean": 0.5, "never": 0.0, "always": 0.5,
        "classes": [{"class": name, "samples": 10, "mean": 0.5, "never": 0.0, "always": 0.5}],
        "histogram": [0] * 9 + [10],
        "most": [{"id": 0, "class": name, "significance": 1.0, "confidence": None}],
        "least": [{"id": 1, "class": name, "significance": 0.0, "confidence": 0.5}],
    }  # fmt: skip
    one = {"mean": 0.9, "ci95": None, "values": [0.9]}
    text = name[:200].encode("utf-8", "replace").decode()  # as a recipe, or its file, can hold it
    arm = {
        "arm": text, "about": text, "seeds": [0], "accuracy": one, "difference": None,
        "against_random": None, "budget": one, "budget_asked": None, "own_budget": False,
        "on_budget": None, "forwards": one, "wall_ratio": one, "collapsed": 0, "failed": [],
        "matched": None, "meters": {},
    }  # fmt: skip
    comparison = {"name": name[:200], "reference": name[:8], "seeds": [0], "split": "test",
                  "arms": [arm], "teachers": []}  # fmt: skip

    def draw(console):
        console.print(ledger_view(ledger))
        console.print(comparison_table(comparison))

    text = shown(draw)
    assert max(map(cell_len, text.splitlines())) <= 80
    assert all(sign.isprintable() for sign in text if sign != "\n")
    if len(name) < 12 and name.isprintable():
        assert text.count(name) >= 6


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("name", HOSTILE[:-1])
def test_progress_of_what_is_called_anything(name, terminal):
    record = {"epoch": 0, "loss": 0.5, "rows": 50, "samples": 50, "wall_seconds": 1.0,
              "progress": 0.5}  # fmt: skip
    event = {"kind": "distill", "name": name, "seed": 0, "finished": 1, "total": 9,
             "accuracy": None, "error": name}  # fmt: skip

    def draw(console):
        with Bar(f"teach {name}", console) as bar:
            bar.epoch({**record, "samples_backpropagated": 50})
        with Bar("demo", console=console) as bar:
            bar.event({**event, "event": "begun"})
            bar.event({**event, "event": "failed"})

    text = shown(draw, terminal)
    for theirs in ("\x1b[31m", "\x1b]", "\x07", "\x9b", "\u202e", "\nfailed: b", "\udcff"):
        assert theirs not in text
    if name.isprintable():
        assert name in text
