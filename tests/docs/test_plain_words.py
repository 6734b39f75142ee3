"""The project uses standard terms: words of a dialect that may not return."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORDS = r"""told|tell(s|ing)?|nobody|somebody|whom|sleep(s|ers?|ing)?|slept|awake
|wak(e|es|ing)|woken|heed(s|ed)?|reckon(s|ed|ing)?|mend(s|ed|ing)?|anew|ask(s|ed|ing)?|alike|look(s|ed|ing)?
|(go|goes|going|gone|went) on|in turns|of ours|as often as you like|is not here|at the most
|what there is a plan for|whole and row by row|(take|takes|taking|taken|took) (no )?part
|(?<!there )(is|are) no (?!longer|such|evidence|worse|better)[a-z]+
"""
# A word also counts inside a name: `asked_rows`, `_when_all_sleep`.
DIALECT = re.compile(rf"(?<![a-z])({WORDS.replace(chr(10), '')})(?![a-z])", re.IGNORECASE)
CHECKED = ("src", "docs", "tests", "benchmarks", "examples", "*.md", "pyproject.toml", ".ci")
EXEMPT = (
    "CHANGELOG.md",
    "docs/migration.md",
    "tests/docs/test_plain_words.py",
    "benchmarks/results",
    "src/frugalkd/language/shakespeare.txt.gz",
)
ON_DISK = re.compile(
    r"time\.sleep|time, \"sleep\"|\bsleep \$|budget_asked|max_sleep|when_all_sleep"
    r"|when_all_skipped=wake|\"wake\": \"all\""
    r"|(stream|uniform)\(\"\w+\"|uniform, \"woken\"|\"woken\", epoch"
)
"""Names of others, keys of committed results and earlier recipes, and names of random streams."""


@pytest.mark.parametrize(
    "text", ["Nobody", "when all sleep", "is told of", "self._asked", "_look_at", "is no class"]
)
def test_what_the_check_finds(text):
    assert DIALECT.search(text)


@pytest.mark.parametrize(
    "text", ["task", "masked", "outlook", "recommend", "goes_on_top", "there is no class"]
)
def test_what_the_check_leaves(text):
    assert not DIALECT.search(text)


def test_no_file_has_a_word_of_the_dialect():
    excluded = [f":!{name}" for name in EXEMPT]
    command = ["git", "ls-files", "-z", "--", *CHECKED, *excluded]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = []
    for name in filter(None, listed.split("\0")):
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
            if match := DIALECT.search(ON_DISK.sub("", line)):
                found.append(f"{name}:{number}: {match[0]}")
    assert not found, f"{len(found)} lines:\n" + "\n".join(found)


def test_names_of_tests_have_at_most_60_characters():
    names = [
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))
    ]
    assert len(names) > 1000
    assert [name for name in names if len(name) > 60] == []
