"""What works, and what is said, where optional packages are not installed."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from frugalkd.errors import PlotError
from frugalkd.runtime.imports import require_extra

FILES = {
    "train-images-idx3-ubyte": (80, 28, 28),
    "train-labels-idx1-ubyte": (80,),
    "t10k-images-idx3-ubyte": (40, 28, 28),
    "t10k-labels-idx1-ubyte": (40,),
}
WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = ("plotly", "jinja2", "scipy", "statsmodels", "sklearn")
        return None if name.partition(".")[0] in absent else super().find_spec(name, path, target)

sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
from frugalkd.cli import main
for line in sys.stdin:
    print(main(line.split()), line, end="", file=sys.stderr)
"""
SMALL = "--set data.root=. --set teacher.training.epochs=1 --set student.training.epochs=1"


@pytest.mark.heavy
def test_commands_without_the_extra_report(tmp_path):
    """Training and evaluation of a plain install; each other command names the extra."""
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for name, shape in FILES.items():
        header = bytes((0, 0, 8, len(shape))) + np.array(shape, dtype=">i4").tobytes()
        (folder / name).write_bytes(header + bytes(i % 10 for i in range(math.prod(shape))))
    commands = [
        f"teach fashion-mnist --out teacher {SMALL}",
        f"distill fashion-mnist --teacher teacher --out student {SMALL}",
        "evaluate student --data",
        "report student",
        f"compare fashion-mnist --seeds 1 --out comparison {SMALL}",
        "demo --out demo",
        "teach digits --out digits",
        "estimate digits --seconds 1",
    ]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    codes = [line for line in done.stderr.splitlines() if line[:2] in ("0 ", "2 ")]
    assert [code[0] for code in codes] == list("00022222"), done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    install = ": pip install 'frugalkd[report]'"
    assert errors == [
        f"error: pages need jinja2 and plotly{install}",
        f"error: comparisons need scipy and statsmodels{install}",
        f"error: comparisons need scipy and statsmodels{install}",
        f"error: the digits come with scikit-learn{install}",
        f"error: the digits come with scikit-learn{install}",
    ]
    assert not (tmp_path / "comparison").exists()


@pytest.mark.heavy
def test_a_training_loop_loads_no_other_packages():
    """What ``frugalkd.Selection`` imports: neither what reports nor what reads recipes."""
    names = ("plotly", "jinja2", "scipy", "statsmodels", "sklearn", "pydantic", "typer", "rich")
    script = (
        "import json, sys, frugalkd; frugalkd.Selection; "
        f"print(json.dumps([name for name in {names!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (json.loads(done.stdout), done.stderr) == ([], "")


def test_an_absent_package(monkeypatch):
    require_extra("plot", "plots need json", PlotError, "json")
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(PlotError, match=r"^plots need x: pip install 'frugalkd\[plot\]'$"):
        require_extra("plot", "plots need x", PlotError, "os", "json")
    with pytest.raises(PlotError, match="plots need x"):
        require_extra("plot", "plots need x", PlotError, "no_such_package.part")
