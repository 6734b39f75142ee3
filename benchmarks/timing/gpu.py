"""What the training loop does on a GPU: ``make gpu``, or ``python -m benchmarks.timing.gpu``.

All of it runs on a CPU as well, so that tests execute it; what CUDA alone counts is then None.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.timing import ranks
from benchmarks.timing.loops import engine, plain
from benchmarks.timing.machine import machine
from benchmarks.timing.runners import Task
from benchmarks.timing.worker import interleave
from frugalkd import RunOptions, Sampling, Selection, SelfRegulation, Training, train_teacher
from frugalkd.data import ImageData
from frugalkd.errors import ModelError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.models import build_model
from frugalkd.models.identity import inference_mode
from frugalkd.outputs.one_class import OneClass
from frugalkd.selection import DataLoading
from frugalkd.training.trainer import Trainer

SMALL = ("lenet5", 64)
LARGE = ("resnet20", 256)
"""A model and its rows of a batch."""
TRAINED, EPOCHS = "resnet8", 8
ROUNDS = 5
PICTURES = "benchmarks.timing.gpu:pictures"

_WAITING = {
    getattr(torch.ops.aten, name)
    for name in ("_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero")
}
"""Operations whose result this process needs, on whatever device it is."""


def pictures(samples: int, size: int = 32, channels: int = 3) -> ImageData:
    """Random pictures of ten classes that a model can learn: the data of a recipe whose
    ``data.path`` is this."""
    stream = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (samples,), generator=stream)
    patterns = torch.randint(256, (10, channels, size, size), generator=stream)
    noise = torch.randint(256, (samples, channels, size, size), generator=stream)
    mean = (0.5,) * channels
    return ImageData(
        ((patterns[labels] + noise) // 2).to(torch.uint8), labels, tuple(map(str, range(10))),
        mean=mean, std=mean,
    )  # fmt: skip


def measure(samples: int, device: str = "cuda", rounds: int = ROUNDS) -> dict[str, Any]:
    """Each figure of the case ``gpu`` on ``device``, None for what it cannot have."""
    found = machine()
    both = [ratios(device, samples, *which, rounds) for which in (SMALL, LARGE)]
    fast = speedup_of_bf16(device, samples, rounds)
    figures: dict[str, Any] = {
        "overhead_small": statistics.median(both[0]),
        "overhead": statistics.median(both[1]),
        "waits": waits(device, samples),
        "graphs": graphs(device, samples)[-1],
        "bf16": statistics.median(fast),
        "bf16_gap": gap_of_bf16(device, samples),
        "fp16_loss": own_loop(device, samples, torch.float16),
        "memory": memory(device, samples),
        "two": two(device, samples),
    }
    runs = {"overhead_small": both[0], "overhead": both[1], "bf16": fast}
    name = torch.cuda.get_device_name() if device == "cuda" else found["cpu"]
    found = {**found, "device": name}
    return {"samples": samples, **figures, "runs": runs, "threads": 1, "machine": found}


def task(who: str, device: str, samples: int, model: str, rows: int, **settings: Any) -> Task:
    """Vanilla for two epochs by ``who`` (plain, engine)."""
    size, channels = (28, 1) if model == "lenet5" else (32, 3)
    options = {"samples": samples, "size": size, "channels": channels}
    recipe = override(
        load_recipe("fashion-mnist"),
        {
            "data": {"path": PICTURES, "options": options},
            "student.model": {"name": model},
            "student.mode": "vanilla",
            "student.training.batch_size": rows,
            "student.training.epochs": 2,
            **{f"student.training.{name}": value for name, value in settings.items()},
        },
    )
    return Task(who, recipe, Path(), {"device": device})


def ratios(device: str, samples: int, model: str, rows: int, rounds: int) -> list[float]:
    """The engine's seconds over the plain loop's, by round."""
    tasks = [task(who, device, samples, model, rows) for who in ("engine", "plain")]
    over, under = _seconds({"engine": engine, "plain": plain}, tasks, rounds)
    return [mine / other for mine, other in zip(over, under, strict=True)]


def speedup_of_bf16(device: str, samples: int, rounds: int) -> list[float]:
    """The engine's seconds in fp32 over those in bf16, by round."""
    tasks = [task("engine", device, samples, *LARGE, precision=each) for each in ("fp32", "bf16")]
    full, half = _seconds({"engine": engine}, tasks, rounds)
    return [each / other for each, other in zip(full, half, strict=True)]


def _seconds(runners: Mapping[str, Any], tasks: list[Task], rounds: int) -> list[list[float]]:
    """By task and round, interleaved."""
    done = interleave([partial(runners[each.runner], each) for each in tasks], rounds)
    if any(done["errors"]):
        raise ModelError("; ".join(filter(None, done["errors"])))
    return [[turn[place]["seconds"] for turn in done["rounds"]] for place in range(len(tasks))]


class _Waits(TorchDispatchMode):
    """Counts operations that wait for the device, and copies from it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        copied = func.overloadpacket is torch.ops.aten._to_copy and made.device != args[0].device
        self.count += func.overloadpacket in _WAITING or (copied and made.device.type == "cpu")
        return made


def waits(device: str, samples: int, rows: int = LARGE[1]) -> float:
    """Waits for the device in a step of self-regulated training, on average. Labels in main memory,
    which are read in each step, do not count."""
    step, counted = Trainer.train_step, []

    def watched(self: Trainer, *given: Any) -> None:
        with _Waits() as mode:
            step(self, *given)
        counted.append(mode.count)

    with (
        patch.object(Trainer, "train_step", watched),
        patch.object(OneClass, "check", lambda *_: None),
    ):
        _train(device, samples, rows)
    return statistics.mean(counted)


def graphs(
    device: str, samples: int, rows: int = LARGE[1], backend: str = "inductor"
) -> tuple[int, int]:
    """Graphs that a training with ``compile`` made in the first and in the second half of its
    epochs: of full and short batches, in training and in screening, all belong to the first."""
    from torch._dynamo.utils import counters

    seen, made = [], counters["stats"]
    before = made["unique_graphs"]
    options = RunOptions(on_epoch_end=lambda record: seen.append(made["unique_graphs"] - before))
    with patch("torch.compile", partial(torch.compile, backend=backend)):
        _train(device, samples, rows, run=options, compile=True)
    first = seen[EPOCHS // 2 - 1]
    return first, seen[-1] - first


def gap_of_bf16(device: str, samples: int, rows: int = LARGE[1]) -> float:
    """The largest difference between the logits of models that were trained in fp32 and in bf16,
    over the spread of the former's."""
    logits, data = [], pictures(min(samples, 256))
    for precision in ("fp32", "bf16"):
        model = _train(device, samples, rows, precision=precision).model
        inputs, _ = data.batch(range(len(data)), [0] * len(data))
        with inference_mode(model):
            logits.append(model(inputs.to(device)).float())
    full, half = logits
    return float((full - half).abs().max() / full.std())


def _train(device: str, samples: int, rows: int, run: RunOptions | None = None, **more: Any) -> Any:
    """Self-regulated by a low threshold, so that samples are skipped and screened early, and the
    rows of an epoch vary."""
    torch.manual_seed(0)
    return train_teacher(
        _model(), pictures(samples), sampling=Sampling(policy=SelfRegulation(confidence=0.3)),
        training=Training(epochs=EPOCHS, batch_size=rows, **more), device=device, run=run,
    )  # fmt: skip


def _model() -> nn.Module:
    return build_model(TRAINED, num_classes=10, in_channels=3, image_size=(32, 32))


def own_loop(device: str, samples: int, dtype: torch.dtype, rows: int = SMALL[1]) -> float:
    """The last epoch's mean loss over the first's, in a loop of the user's own: autocast, a
    gradient scaler for float16."""
    torch.manual_seed(0)
    model = _model().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)  # pyright: ignore
    loading = DataLoading(device=torch.device(device))
    selection = Selection(
        pictures(samples), epochs=3, batch_size=rows, loading=loading, model=model,
        forward=lambda data: model(data[0]),
    )  # fmt: skip
    means = []
    for epoch in selection:
        losses = []
        for batch in epoch:
            inputs, labels = batch.data
            with torch.autocast(device, dtype):
                logits = model(inputs)
            loss = batch.reduce(F.cross_entropy(logits.float(), labels, reduction="none"))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            batch.observe(logits, labels)
            losses.append(loss.detach())
        means.append(float(torch.stack(losses).mean()))
    return means[-1] / means[0]


def memory(device: str, samples: int) -> float | None:
    """The engine's peak memory over the plain loop's."""
    peaks = []
    for who, runner in (("engine", engine), ("plain", plain)):
        run = runner(task(who, device, samples, *LARGE))
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        run()
        peaks.append(torch.cuda.max_memory_allocated() if device == "cuda" else 0)
    return peaks[0] / peaks[1] if all(peaks) else None


def two(device: str, samples: int) -> float | None:
    """Rows per second of two GPUs over those of one."""
    if device != "cuda" or torch.cuda.device_count() < 2:
        return None
    data = {"path": PICTURES, "options": {"samples": samples}}
    return ranks.measure(samples, device=device, data=data)["speedup"]


def main() -> int:
    """The tests marked ``gpu``, then the figures; returns the exit code."""
    if not torch.cuda.is_available():
        print(f"no GPU: torch {torch.__version__} finds no CUDA device, so nothing was checked")
        return 0
    import pytest
    from rich.console import Console

    from benchmarks.timing import Options
    from benchmarks.timing.cases import GPU
    from benchmarks.timing.run import bench
    from benchmarks.timing.table import case_view

    tested = pytest.main(["-m", "gpu", "-p", "no:cacheprovider"])
    content = bench(GPU, Options(Path("runs/gpu")), lambda line: print(line, file=sys.stderr))
    Console(highlight=False).print(case_view(content))
    for failure in content["failed"]:
        print(f"failed: {failure['error']}", file=sys.stderr)
    missed = any(each["reached"]["must"] is False for each in content["figures"])
    return int(bool(tested or content["failed"] or missed))


if __name__ == "__main__":
    sys.exit(main())
