"""A large and a small question classifier, the small one distilled, with Accelerate.

The argument is a folder that holds trec6/train.parquet and trec6/test.parquet (text, label).
"""

import sys
import time

import pyarrow.parquet
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from frugalkd import DataLoading, Sampling, Selection

tables = [
    pyarrow.parquet.read_table(f"{sys.argv[1]}/trec6/{part}.parquet") for part in ("train", "test")
]
train, test = (
    [(row["text"].lower().split(), row["label"]) for row in t.to_pylist()] for t in tables
)
train = train[:2000]
number = {
    word: n for n, word in enumerate(sorted({w for words, _ in train for w in words}), start=1)
}
accelerator = Accelerator()


def padded(samples):
    words = [torch.tensor([number.get(word, 0) for word in words]) for words, _ in samples]
    words = nn.utils.rnn.pad_sequence(words, batch_first=True)
    return {"words": words, "labels": torch.tensor([label for _, label in samples])}


class Classifier(nn.Module):
    def __init__(self, width):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(len(number) + 1, width, padding_idx=0)
        self.pairs = nn.Conv1d(width, width, 2, padding=1)
        self.top = nn.Linear(width, 6)

    def forward(self, words):
        return self.top(self.pairs(self.words(words).mT).relu().amax(dim=2))


def accuracy(net):
    net.eval()
    batch = accelerator.prepare(padded(test))
    return (net(batch["words"]).argmax(dim=1) == batch["labels"]).float().mean()


def fit(name, net, teacher=None):
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    net, optimizer = accelerator.prepare(net, optimizer)
    rows = DataLoading(collate_fn=padded, device=accelerator.device)
    plan = Selection(train, epochs=15, batch_size=32, sampling=Sampling(), model=net, loading=rows)
    started = time.perf_counter()
    for epoch in plan:
        net.train()
        for chosen in epoch:
            batch, progress = chosen.data, chosen.progress
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 - progress)
            logits, targets = net(batch["words"]), batch["labels"]
            if teacher is not None:
                targets = teacher.eval()(batch["words"]).detach().softmax(dim=1)
            loss = chosen.reduce(F.cross_entropy(logits, targets, reduction="none"))
            chosen.observe(logits)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    seconds = time.perf_counter() - started
    print(f"{name}: test accuracy {accuracy(net):.1%} in {seconds:.1f} s")
    print(f"{name}: trained on {plan.budget:.0%} of the samples, saving {1 - plan.budget:.0%}")
    return net


large = fit("large", Classifier(128))
small = fit("small", Classifier(32), teacher=large)
