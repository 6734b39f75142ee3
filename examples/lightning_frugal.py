"""A large and a small network that read digits, trained with Lightning.

It takes no argument and downloads nothing.
"""

import time

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from frugalkd.integrations.lightning import FrugalCallback, FrugalLoader

pixels, labels = load_digits(return_X_y=True)
pixels, labels = torch.tensor(pixels).float().reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
train, test = (
    TensorDataset(pixels[part], labels[part]) for part in (slice(1400), slice(1400, None))
)


class Reader(L.LightningModule):
    def __init__(self, width):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * width, 10),
        )

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return self(batch[0])

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("accuracy", (self(x).argmax(dim=1) == y).float().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def fit(name, reader, teacher=None):
    loader = FrugalLoader(train, batch_size=32)
    frugal = FrugalCallback(teacher=teacher)
    trainer = L.Trainer(
        callbacks=[frugal],
        max_epochs=20,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    started = time.perf_counter()
    trainer.fit(reader, loader)
    seconds = time.perf_counter() - started
    (metrics,) = trainer.test(reader, DataLoader(test, batch_size=397), verbose=False)
    print(f"{name}: test accuracy {metrics['accuracy']:.1%} in {seconds:.1f} s")
    print(f"{name}: trained on {frugal.budget:.0%} of the samples, saving {1 - frugal.budget:.0%}")
    return reader


large = fit("large", Reader(32))
small = fit("small", Reader(8), teacher=large)
