"""Debian's packages: names and one-line descriptions, and tags of debtags, several a package.

The recipe packages.yaml reads them from ``apt-cache dumpavail`` (on Debian, after ``apt-get
update``): packages of main with tags, and the tags that 200 of them have or more.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from zlib import crc32

import torch

from frugalkd.data import Splits, TextData
from frugalkd.data.text import tokenize

LEAST = 200
"""Packages that have a tag, at least."""

TEST = 5
"""One of so many source packages is held out, with all that is built from it."""


def packages(listing: str) -> Iterator[tuple[str, str, list[str]]]:
    """The source, the text and the tags of each package that has tags."""
    for stanza in listing.split("\n\n"):
        said = dict(re.findall(r"^([\w-]+): ?(.*(?:\n[ \t].*)*)", stanza, flags=re.MULTILINE))
        if "Tag" not in said or "/" in said.get("Section", ""):
            continue
        name, line = said["Package"], said.get("Description", "").partition("\n")[0]
        source = said.get("Source", name).partition(" ")[0]
        yield source, f"{name.replace('-', ' ')}: {line}", re.split(r",\s*", said["Tag"])


def splits(listing: str, least: int = LEAST) -> Splits:
    """Training and test part, by source package, with one column a tag."""
    found = list(packages(listing))
    counts = Counter(tag for *_, tags in found for tag in tags)
    names = sorted(tag for tag, count in counts.items() if count >= least)
    known = [row for row in found if any(tag in names for tag in row[2])]
    labels = torch.tensor([[name in tags for name in names] for *_, tags in known])
    lines = [text for _, text, _ in known]
    texts = TextData(tokenize(lines), labels, tuple(names), lambda rows: [lines[i] for i in rows])
    held_out = torch.tensor([crc32(source.encode()) % TEST == 0 for source, *_ in known])
    train, test = (torch.nonzero(part)[:, 0] for part in (~held_out, held_out))
    return Splits(texts.subset(train), texts.subset(test))


def load() -> Splits:
    command = ["apt-cache", "dumpavail"]
    return splits(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
