"""The table of several labels: packages of a listing, split by source."""

from __future__ import annotations

from typing import Any

from benchmarks.outputs.packages import packages, splits

LISTING = """\
Package: lib-one
Source: one (1.2-3)
Description: a library: of one
 and more lines
Tag: role::shared-lib, devel::library,
 implemented-in::c
Section: libs

Package: one-tools
Source: one
Description: tools of one
Tag: role::program
Section: utils

Package: untagged
Description: without tags
Section: utils

Package: unfree
Description: not of main
Tag: role::program
Section: non-free/utils

Package: two
Description: a program
Tag: role::program, interface::graphical
Section: games
"""


def test_packages_of_main_with_tags():
    assert list(packages(LISTING)) == [
        (
            "one",
            "lib one: a library: of one",
            ["role::shared-lib", "devel::library", "implemented-in::c"],
        ),
        ("one", "one tools: tools of one", ["role::program"]),
        ("two", "two: a program", ["role::program", "interface::graphical"]),
    ]


def test_sources_are_in_one_part_and_rare_tags_are_left_out():
    listing = LISTING + "\n".join(
        f"\nPackage: p{number}\nSource: s{number // 2}\nDescription: x\nTag: role::program, use::a"
        f"\nSection: utils\n"
        for number in range(60)
    )
    made: Any = splits(listing, least=20)
    assert made.train.classes == made.test.classes == ("role::program", "use::a")
    parts = [
        {text.partition(":")[0] for text in part.texts(range(len(part)))}
        for part in (made.train, made.test)
    ]
    assert len(parts[0]) + len(parts[1]) == 62  # lib-one has none of these tags
    for number in range(0, 60, 2):
        pair = {f"p{number}", f"p{number + 1}"}
        assert pair <= parts[0] or pair <= parts[1]
    assert 5 < len(parts[1]) < 25
