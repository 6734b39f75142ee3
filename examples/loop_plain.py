"""A large and a small network that read digits, trained in a plain PyTorch loop.

It takes no argument and downloads nothing.
"""

import time

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

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


def fit(name, net):
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    loader = DataLoader(train, batch_size=32, shuffle=True)
    started = time.perf_counter()
    for epoch in range(20):
        net.train()
        for step, (x, y) in enumerate(loader):
            progress = (epoch + step / len(loader)) / 20
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 - progress)
            logits = net(x)
            loss = nn.functional.cross_entropy(logits, y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    seconds = time.perf_counter() - started
    print(f"{name}: test accuracy {accuracy(net):.1%} in {seconds:.1f} s")
    return net


large = fit("large", network(32))
small = fit("small", network(8))
