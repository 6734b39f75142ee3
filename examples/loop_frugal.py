"""A large and a small network that read digits, trained in a plain PyTorch loop.

It takes no argument and downloads nothing.
"""

import time

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from frugalkd import KD, CrossEntropy, LiveTeacher, Sampling, Selection

pixels, labels = load_digits(return_X_y=True)
pixels, labels = torch.tensor(pixels).float().reshape(-1, 1, 8, 8) / 16, torch.tensor(labels)
train, test = (
    TensorDataset(pixels[part], labels[part]) for part in (slice(1400), slice(1400, None))
)


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


def accuracy(net):
    net.eval()
    hits = [(net(x).argmax(dim=1) == y).float() for x, y in DataLoader(test, batch_size=256)]
    return torch.cat(hits).mean()


def fit(name, net, objective=CrossEntropy(), **given):
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    plan = Selection(train, epochs=20, batch_size=32, sampling=Sampling(), model=net, **given)
    started = time.perf_counter()
    for epoch in plan:
        net.train()
        for batch in epoch:
            (x, y), progress = batch.data, batch.progress
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 - progress)
            logits = net(x)
            loss = batch.reduce(objective(logits, batch.targets, y))
            batch.observe(logits, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    seconds = time.perf_counter() - started
    print(f"{name}: test accuracy {accuracy(net):.1%} in {seconds:.1f} s")
    print(f"{name}: trained on {plan.budget:.0%} of the samples, saving {1 - plan.budget:.0%}")
    return net


large = fit("large", network(32))
small = fit("small", network(8), KD(), targets=LiveTeacher(large))
