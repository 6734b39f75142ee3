"""What docs/trainers.md and docs/data.md show runs as it stands there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from frugalkd.checks import labels_of
from frugalkd.files.weights import save_weights
from frugalkd.recipes.load import load_recipe, override
from frugalkd.recipes.schema import Augment
from frugalkd.runs.material import make_data, make_model

DOCS = Path(__file__).parents[1] / "docs"
CLASSES = 3


def snippets(page: str, language: str) -> list[Any]:
    """The blocks of a page in a language, each named by the heading that it stands under."""
    found = []
    for section in re.split(r"(?m)^## ", (DOCS / page).read_text()):
        heading = section.splitlines()[0].lower().replace(" ", "-")
        for number, block in enumerate(re.findall(rf"(?s)```{language}\n(.*?)```", section)):
            found.append(pytest.param(block, id=f"{heading}-{number}"))
    return found


def pairs() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (40,), generator=generator)
    return TensorDataset(torch.randn(40, 5, generator=generator) + 3 * labels[:, None], labels)


def given(block: str) -> dict[str, Any]:
    """The names that a snippet of trainers.md takes as known."""
    names: dict[str, Any] = {"train": pairs(), "model": nn.Linear(5, CLASSES)}
    names["teacher"] = nn.Linear(5, CLASSES)
    names["optimizer"] = torch.optim.AdamW(names["model"].parameters(), lr=0.003)
    if "lightning" in block:
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

        names["module"] = Module()
    if "transformers" in block:
        transformers = pytest.importorskip("transformers", reason="needs transformers")
        config = transformers.ViTConfig(
            image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=16, num_labels=CLASSES,
        )  # fmt: skip
        for name in ("classifier", "large"):
            names[name] = transformers.ViTForImageClassification(config)
        names["rows"] = [
            {"pixel_values": torch.full((1, 8, 8), float(k % CLASSES)), "label": k % CLASSES}
            for k in range(24)
        ]
    return names


@pytest.mark.parametrize("block", snippets("trainers.md", "python"))
@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*")
def test_a_trainer(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = given(block)
    exec(compile(block, "docs/trainers.md", "exec"), names)
    selection = names.get("selection") or getattr(names.get("frugal"), "selection", None)
    selection = selection or names["trainer"].selection
    assert 0 < selection.budget <= 1
    assert selection.ledger.epochs == selection.epochs
    assert "print" not in block or capsys.readouterr().out


class Mine(Dataset):
    """What the pages call a user's own."""

    def __init__(self, rows):
        self.labels = torch.arange(rows) % CLASSES

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, id):
        return torch.full((1, 8, 8), float(id)), int(self.labels[id])


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """All that the recipes of data.md name, in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
        from torch import nn
        from test_docs_snippets import Mine

        def make(rows):
            return Mine(rows), Mine(20)

        class Net(nn.Sequential):
            def __init__(self, width):
                super().__init__(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 10))
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def pictures(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    import pyarrow as pa

    stream, table = np.random.default_rng(0), []
    for kind in ("ant", "bee"):
        (folder / "pictures" / kind).mkdir(parents=True)
        for k in range(8):
            file = folder / "pictures" / kind / f"{k}.png"
            image.fromarray(stream.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(file)
            table.append({"picture": {"bytes": file.read_bytes(), "path": None}, "kind": kind})
    pq.write_table(pa.Table.from_pylist(table), folder / "table.parquet")


@pytest.mark.parametrize("block", snippets("data.md", "yaml"))
def test_a_recipe(block, folder, monkeypatch):
    said = yaml.safe_load(block)
    for library in ("timm", "torchvision", "datasets"):
        if f"{library}/" in block or (library == "datasets" and "hugging-face" in block):
            pytest.importorskip(library, reason=f"needs {library}")
    if "pictur" in block:
        pictures(folder)
    changes = {
        f"{section}.{key}": value for section, keys in said.items() for key, value in keys.items()
    }
    if "data" in said:  # a name takes the place of a path, and the other way round
        changes = {"data": {"name": None, "options": {}, **said["data"]}}
    recipe = override(load_recipe("digits"), changes)
    data = make_data(recipe, Augment(crop=0, flip=False), 0).train
    for role in set(said) - {"data"}:
        spec = getattr(recipe, role).model
        if spec.start is not None:
            plain = spec.model_copy(update={"start": None})
            save_weights(folder / "weights.safetensors", make_model(plain, data, 1))
            torch.save(make_model(plain, data, 1).state_dict(), folder / "net.pt")
        model = make_model(spec, data, 0).eval()
        assert model(data[0][0][None]).shape == (1, 10)
    labels = labels_of(data)
    assert labels is not None
    assert len(labels) > 10
