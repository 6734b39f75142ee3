"""Every example of docs/teachers.md is run, in their order, on small digits."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

from frugalkd.objectives import CrossEntropy
from frugalkd.policies import POLICIES, RandomSubset
from frugalkd.recipes.several import Several

PAGE = (Path(__file__).parents[1] / "docs/teachers.md").read_text(encoding="utf-8")
SMALL = ["data.train_size=300", "teacher.training.epochs=12", "student.training.epochs=4",
         "teacher.policy.confidence=0.4"]  # fmt: skip


def test_the_examples_work(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    kinds = []
    for kind, text in re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL):
        kinds.append(kind)
        if kind == "yaml":
            name = re.match(r"# (\S+\.yaml)\n", text)
            assert name is not None, text
            Path(name[1]).write_text(text)
        elif kind == "sh":
            for line in text.splitlines():
                words = shlex.split(line)
                assert words.pop(0) == "frugalkd"
                code, _, err = cli(*words, *(w for s in SMALL for w in ("--set", s)))
                assert code == 0, f"{line}: {err}"
        else:
            small = text.replace("epochs=5", "epochs=2").replace('.yaml")', f'.yaml", {SMALL})')
            exec(small, names)
    assert len(kinds) == 18
    assert Path("runs/chain/3-student/student.safetensors").is_file()


def test_what_it_says_of_combining_is_all_that_there_is():
    table = set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)) - {"combine"}
    assert table == set(get_args(Several.model_fields["combine"].annotation))


def test_what_it_says_of_labels_is_so():
    scored = {name for name, made in POLICIES.items() if made().scoring is not None}
    said = re.search(r"policies with a scoring run \((.*?)\)", PAGE, flags=re.DOTALL)
    assert said is not None
    assert set(re.findall(r"`([\w-]+)`", said[1])) == scored
    assert not CrossEntropy.needs_targets
    assert RandomSubset(balanced=True).asks_labels
