"""A large and a small network that read digits, the small one distilled, on what still matters.

python examples/loop_frugal.py
"""

import time

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from frugalkd import KD, CrossEntropy, LiveTeacher, Selection, SelfRegulation

EPOCHS = 20
pixels, labels = load_digits(return_X_y=True)
images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
labels = torch.tensor(labels)
train = TensorDataset(images[:1400], labels[:1400])


def network(width):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * width, 10),
    )


@torch.no_grad()
def accuracy(model):
    return (model.eval()(images[1400:]).argmax(1) == labels[1400:]).float().mean()


def fit(name, model, objective=CrossEntropy(), targets=None):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    selection = Selection(
        train, policy=SelfRegulation(), epochs=EPOCHS, batch_size=32, model=model, targets=targets
    )
    started = time.perf_counter()
    for epoch in selection:
        model.train()
        for batch in epoch:
            (x, y), progress = batch.data, batch.progress
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 - progress)
            logits = model(x)
            loss = batch.reduce(objective(logits, batch.targets, y))
            batch.observe(logits, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    seconds = time.perf_counter() - started
    print(f"{name}: test accuracy {accuracy(model):.1%} in {seconds:.1f} s")
    print(f"{name}: trained on {selection.budget:.0%} of the samples, saving {1 - selection.budget:.0%}")
    return model


large = fit("large", network(32))
small = fit("small", network(8), KD(), LiveTeacher(large))
