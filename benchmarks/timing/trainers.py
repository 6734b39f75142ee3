"""The time of a step of FrugalTrainer, with every sample selected, over that of a plain Trainer.

A Bert of two layers trains on random tokens, under torchrun: on one rank, on one rank with two
loader workers, and on two ranks. Each time both trainers run in one process, in turn, step by step,
so that what else the machine does slows both. Counted is each step with the reading of its batches;
with the first step of an epoch the plan, the merge and the start of workers; not what a training
does once (reading the data for their digest). The CPU seconds are those of a trainer's own thread.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.timing.machine import machine
from benchmarks.timing.ranks import last_words
from frugalkd.errors import RankError
from frugalkd.runtime.process import rank_and_world

EPOCHS, BATCH, LENGTH, CLASSES, TOKENS, WIDTH = 7, 32, 32, 8, 1000, 128
"""The first epoch warms up, and is not counted."""
KINDS = ("wall", "cpu")
Times = list[dict[str, float]]
"""``wall`` and ``cpu`` seconds of each step."""


def measure(samples: int, epochs: int = EPOCHS) -> dict[str, Any]:
    """Train ``epochs`` epochs on ``samples`` samples in each variant.

    Returns:
        ``one``, ``two``, ``workers``: seconds of an epoch's steps over the plain Trainer's, with
        ``_cpu`` CPU seconds; medians over epochs, whose values are in ``runs``; ``step``: the
        median seconds of a step of the plain Trainer on one rank.

    Raises:
        RankError: a launch failed, or this process is itself a rank.
    """
    if rank_and_world()[1] > 1:
        raise RankError("the trainers case starts its own ranks: run it without torchrun")
    found, runs, step = machine(), {}, 0.0
    with tempfile.TemporaryDirectory(prefix="frugalkd-") as place:
        for name, ranks, workers in (("one", 1, 0), ("workers", 1, 2), ("two", 2, 0)):
            times = _launch(Path(place) / name, samples, epochs, ranks, workers)
            runs |= _ratios(name, times, epochs)
            if name == "one":
                step = statistics.median(each["wall"] for each in times["plain"])
    return {
        "samples": samples,
        **{name: statistics.median(values) for name, values in runs.items()},
        "step": step,
        "threads": 1,
        "cpu": found["cpu"],
        "runs": runs,
        "machine": found,
    }


def _ratios(name: str, times: dict[str, Times], epochs: int) -> dict[str, list[float]]:
    """Of each epoch but the first."""
    steps = len(times["plain"]) // epochs

    def sums(trainer: str, kind: str) -> list[float]:
        seconds = [each[kind] for each in times[trainer]]
        return [sum(seconds[epoch * steps :][:steps]) for epoch in range(1, epochs)]

    return {
        f"{name}{'' if kind == 'wall' else '_cpu'}": [
            frugal / plain
            for frugal, plain in zip(sums("frugal", kind), sums("plain", kind), strict=True)
        ]
        for kind in KINDS
    }


def _launch(folder: Path, samples: int, epochs: int, ranks: int, workers: int) -> dict[str, Times]:
    """The times of both trainers, step by step, summed over the ranks."""
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", "-m", "benchmarks.timing.trainers"]
    command += [str(samples), str(epochs), str(workers), str(folder)]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RankError(f"{ranks} ranks ended with code {done.returncode}: {last_words(done)}")
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
    return {
        trainer: [
            {kind: sum(step[kind] for step in steps) for kind in KINDS}
            for steps in zip(*(times[trainer] for times in found), strict=True)
        ]
        for trainer in ("plain", "frugal")
    }


class Turns:
    """Lets two threads run in turn."""

    def __init__(self, names: tuple[str, ...]):
        self._names, self._now, self._changed = list(names), 0, threading.Condition()

    @contextmanager
    def own(self, name: str) -> Iterator[None]:
        """Within it the thread of ``name`` has the first turn, and others have none after it."""
        self.wait(name)
        try:
            yield
        finally:
            with self._changed:
                self._names.remove(name)
                self._now %= max(1, len(self._names))
                self._changed.notify_all()

    def wait(self, name: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._names[self._now] == name)

    def pass_on(self, name: str) -> None:
        """To the other one, until it passes the turn back or ends."""
        with self._changed:
            self._now = (self._now + 1) % len(self._names)
            self._changed.notify_all()
        self.wait(name)


def both(samples: int, epochs: int, workers: int, folder: Path) -> dict[str, Times]:
    """The times of both trainers on this rank."""
    import torch
    import transformers
    from torch.utils.data import Dataset

    from frugalkd import All, Sampling
    from frugalkd.integrations.transformers import FrugalTrainer

    torch.set_num_threads(1)
    stream = torch.Generator().manual_seed(0)
    tokens = torch.randint(TOKENS, (samples, LENGTH), generator=stream)
    labels = torch.randint(CLASSES, (samples,), generator=stream).tolist()

    class Rows(Dataset):
        def __len__(self) -> int:
            return samples

        def __getitem__(self, id: int) -> dict[str, Any]:
            row = tokens[id]
            return {"input_ids": row, "attention_mask": row >= 0, "labels": labels[id]}

    class Clock(transformers.TrainerCallback):
        """Times steps, and passes the turn on after each."""

        def __init__(self, name: str):
            self.name, self.times = name, []

        def on_train_begin(self, *given: Any, **more: Any) -> None:
            self.begin()

        def begin(self) -> None:
            self.started = time.perf_counter(), time.thread_time()

        def on_step_end(self, *given: Any, **more: Any) -> None:
            now = time.perf_counter(), time.thread_time()
            taken = (end - start for end, start in zip(now, self.started, strict=True))
            self.times.append(dict(zip(KINDS, taken, strict=True)))
            turns.pass_on(self.name)
            self.begin()

    sizes: dict[str, Any] = {
        "vocab_size": TOKENS, "hidden_size": WIDTH, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 4 * WIDTH, "num_labels": CLASSES,
        "max_position_embeddings": LENGTH,
    }  # fmt: skip
    config = transformers.BertConfig(**sizes)
    args = transformers.TrainingArguments(
        str(folder / "out"), num_train_epochs=epochs, per_device_train_batch_size=BATCH,
        use_cpu=True, report_to=[], logging_strategy="no", save_strategy="no", disable_tqdm=True,
        dataloader_num_workers=workers, dataloader_drop_last=True,
    )  # fmt: skip
    clocks = {name: Clock(name) for name in ("plain", "frugal")}
    turns, failed = Turns(tuple(clocks)), []

    def train(name: str) -> None:
        model: Any = transformers.BertForSequenceClassification(config)
        given: dict[str, Any] = {"train_dataset": Rows(), "callbacks": [clocks[name]]}
        with turns.own(name):
            try:
                if name == "plain":
                    transformers.Trainer(model, args, **given).train()
                else:
                    FrugalTrainer(model, args, sampling=Sampling(policy=All()), **given).train()
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=train, args=(name,)) for name in clocks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return {name: clock.times for name, clock in clocks.items()}


def main(samples: int, epochs: int, workers: int, folder: Path) -> None:
    """What each rank does: it writes its times to ``folder/RANK.json``."""
    times = both(samples, epochs, workers, folder)
    (folder / f"{rank_and_world()[0]}.json").write_text(json.dumps(times))


if __name__ == "__main__":
    samples, epochs, workers = map(int, sys.argv[1:4])
    main(samples, epochs, workers, Path(sys.argv[4]))
