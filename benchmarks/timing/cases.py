"""The cases, with the bounds that they must reach."""

from __future__ import annotations

from benchmarks.timing.case import Arm, Case, Figure, Measurement, Ratio, Settings, Teacher

_CEILING: Settings = {"student.mode": "regulated", "student.regulation.ceiling": 0.9}
_VANILLA: Settings = {"student.mode": "vanilla"}
_REGULATED: Settings = {"student.mode": "regulated"}
_LIVE: Settings = {**_VANILLA, "student.targets.kind": "live"}
_COUNTED: Settings = {"filling": "counted"}
_APART: Settings = {"filling": "apart"}
_FP32: Settings = {"teacher_precision": "fp32"}
_TEACHER_FAST: Settings = {"teacher_channels_last": True}

A = Case(
    name="a",
    summary="Fashion-MNIST, a teacher of 25 MFLOPs to half a LeNet-5, 24 epochs",
    takes="40 minutes",
    recipe="fashion-mnist",
    set={"student.training.epochs": 24, "student.training.batch_size": 64},
    teacher=Teacher("a", "fashion-mnist", {"teacher.model.options.width": 30}),
    arms=[
        Arm("torchdistill", "torchdistill", _LIVE, constant=True, part=6),
        # Shows how much of the ratio is due to the memory format (one line of user code).
        Arm(
            "torchdistill-channels-last",
            "torchdistill",
            _LIVE,
            _TEACHER_FAST,
            constant=True,
            part=6,
        ),
        Arm("vanilla-live", "distill", _LIVE, _FP32, constant=True, part=6),
        Arm("vanilla-live-bf16", "distill", _LIVE, constant=True, part=8),
        Arm("vanilla-stored", "distill", _VANILLA, _APART, constant=True),
        Arm("regulated", "distill", _REGULATED, _COUNTED),
        Arm("hybrid-ceiling", "distill", _CEILING, _COUNTED),
        Arm("hybrid-ceiling-fp32", "distill", _CEILING, {**_COUNTED, **_FP32}),
        Arm("regulated-apart", "distill", _REGULATED, _APART),
        Arm("hybrid-ceiling-apart", "distill", _CEILING, _APART),
    ],
    ratios=[
        Ratio("torchdistill", "hybrid-ceiling", must=12, aim=18),
        Ratio("torchdistill", "hybrid-ceiling-fp32"),
        Ratio("torchdistill-channels-last", "hybrid-ceiling"),
        Ratio("torchdistill", "regulated"),
        Ratio("vanilla-live", "vanilla-stored", must=7),
        Ratio("vanilla-live-bf16", "vanilla-stored"),
        Ratio("vanilla-stored", "hybrid-ceiling-apart", must=2.2, aim=3),
        Ratio("vanilla-stored", "regulated-apart"),
        Ratio("regulated-apart", "vanilla-stored", 1.45, 1.25, at_most=True, per_budget=True),
        Ratio("hybrid-ceiling-apart", "vanilla-stored", 1.45, 1.25, at_most=True, per_budget=True),
    ],
)

_FAST: Settings = {"student.training.precision": "bf16", "student.training.channels_last": True}
_PLAIN: Settings = {"student.training.precision": "fp32", "student.training.channels_last": False}
_STORED: Settings = {
    "student.targets": {"kind": "stored", "views": 8, "encoding": "float16"},
}

B = Case(
    name="b",
    summary="CIFAR-10 (20,000), crop and flip, ResNet-20 to ResNet-8, 40 epochs",
    takes="1.5 hours",
    recipe="cifar10",
    set={
        "data.train_size": 20_000,
        "student.training.epochs": 40,
        "student.training.batch_size": 128,
        **_FAST,
    },
    teacher=Teacher(
        "b",
        "cifar10",
        {
            "data.train_size": 20_000,
            "teacher.training.epochs": 30,
            "teacher.training.precision": "bf16",
        },
    ),
    arms=[
        Arm("torchdistill", "torchdistill", {**_LIVE, **_PLAIN}, constant=True, part=4),
        Arm(
            "torchdistill-channels-last",
            "torchdistill",
            {**_LIVE, **_PLAIN, "student.training.channels_last": True},
            _TEACHER_FAST,
            constant=True,
            part=4,
        ),
        Arm("vanilla-live", "distill", _LIVE, constant=True),
        Arm("regulated", "distill", {**_REGULATED, **_STORED}, _COUNTED),
        Arm("hybrid-ceiling", "distill", {**_CEILING, **_STORED}, _COUNTED),
    ],
    ratios=[
        Ratio("vanilla-live", "regulated", must=2.2, aim=3),
        Ratio("vanilla-live", "hybrid-ceiling", must=2.2, aim=3),
        Ratio("torchdistill", "regulated", must=5, aim=8),
        Ratio("torchdistill", "hybrid-ceiling", must=5, aim=8),
        Ratio("torchdistill-channels-last", "regulated"),
        Ratio("torchdistill-channels-last", "hybrid-ceiling"),
    ],
)

TEACHER = Case(
    name="teacher",
    summary="the fashion-mnist recipe's teacher, self-regulated and conventional",
    takes="30 minutes",
    recipe="fashion-mnist",
    arms=[
        Arm("conventional", "teach", {"teacher.policy": {"name": "all"}}, constant=True),
        Arm("self-regulated", "teach"),
    ],
    ratios=[Ratio("self-regulated", "conventional", must=0.6, aim=0.4, at_most=True)],
)

COST = Case(
    name="cost",
    summary="Fashion-MNIST: a gate and a shorter schedule, at the cost of six epochs",
    takes="10 minutes",
    recipe="fashion-mnist",
    set={
        "student.training.epochs": 6,
        "student.training.batch_size": 32,
        "student.training.optimizer.lr": 0.016,
    },
    teacher=Teacher("cost", "fashion-mnist"),
    arms=[
        Arm("short", "distill", _VANILLA, _APART, constant=True),
        Arm("cost", "distill", {**_REGULATED, "student.cost": 1.0}, _APART),
    ],
    ratios=[Ratio("cost", "short", must=1.15, aim=1.05, at_most=True)],
    rounds=5,
)

_SHORT: Settings = {
    **_VANILLA,
    "data.train_size": 20_000,
    "student.training.epochs": 2,
}

LOOP = Case(
    name="loop",
    summary="vanilla in frugalkd's training loop, and in a plain loop on tensors in RAM",
    takes="3 minutes",
    recipe="fashion-mnist",
    set=_SHORT,
    arms=[
        Arm(f"{who}-{rows}", who, {"student.training.batch_size": rows})
        for rows in (64, 128)
        for who in ("plain", "engine")
    ],
    ratios=[
        Ratio(f"engine-{rows}", f"plain-{rows}", must=1.05, aim=1.0, at_most=True)
        for rows in (64, 128)
    ],
    rounds=15,
    together=True,
)

METERS = Case(
    name="meters",
    summary="frugalkd's training loop with meters by phase, and without",
    takes="2 minutes",
    recipe="fashion-mnist",
    set=_SHORT,
    arms=[Arm("metered", "engine"), Arm("unmetered", "engine", options={"phases": False})],
    ratios=[Ratio("metered", "unmetered", must=1.01, at_most=True)],
    rounds=15,
    together=True,
)

_SPEED: dict[str, Settings] = {
    "fp32": {},
    "channels-last": {"student.training.channels_last": True},
    "bf16": {"student.training.precision": "bf16"},
    "bf16-channels-last": _FAST,
    "compile": {"student.training.compile": True},
    "all": {**_FAST, "student.training.compile": True},
}
"""Each option alone, and useful combinations."""

# The teacher has the student's precision and memory format here: see loops.engine.
_PAIRS: dict[str, tuple[str, Settings, list[str]]] = {
    "pair": (
        "cifar10",
        {"data.train_size": 12_800, "student.targets.kind": "live"},
        list(_SPEED),
    ),
    "resnet8": (
        "cifar10",
        {"data.train_size": 12_800, **_STORED},
        ["fp32", "bf16-channels-last", "all"],
    ),
    "lenet5": ("fashion-mnist", {"data.train_size": 12_800}, list(_SPEED)),
}

OPTIONS = Case(
    name="options",
    summary="the time of a training step by precision, memory format and compilation",
    takes="30 minutes",
    recipe="cifar10",
    set={**_VANILLA, **_PLAIN, "student.training.epochs": 2},
    arms=[
        Arm(f"{pair}-{option}", "engine", {**settings, **_SPEED[option]}, recipe=recipe)
        for pair, (recipe, settings, options) in _PAIRS.items()
        for option in options
    ],
    ratios=[
        Ratio(f"{pair}-fp32", f"{pair}-{option}")
        for pair, (_, _, options) in _PAIRS.items()
        for option in options[1:]
    ],
    rounds=3,
    together=True,
    per_rows=True,
)

LEDGER = Measurement(
    name="ledger",
    summary="a ledger of 100 million samples: observe, plan, save",
    takes="5 minutes",
    samples=100_000_000,
    quick_samples=1_000_000,
    figures=[
        Figure("observe_logits", "observe from logits, rows/s", must=2e6),
        Figure("observe_verdicts", "observe from outcomes, rows/s", must=8e6),
        Figure("plan_12", "plan with 12 % active, s", must=3, at_most=True),
        Figure("plan_all", "plan with all active, s", must=10, at_most=True),
        Figure("save", "save, s"),
        Figure("save_ratio", "save / raw write", must=1.5, at_most=True),
        Figure("bytes", "memory, bytes per sample", must=20, at_most=True),
        Figure("peak_memory_bytes", "peak memory of the process, bytes"),
        Figure("cpu_share", "share of a core that it received"),
    ],
)

RANKS = Measurement(
    name="ranks",
    summary="ResNet-20 on CIFAR-10: two ranks on two cores, and one rank with one thread",
    takes="10 minutes",
    samples=12_800,
    quick_samples=1_280,
    figures=[
        Figure("alone", "one rank, rows/s"),
        Figure("together", "two ranks, rows/s"),
        Figure("speedup", "two ranks / one rank", must=1.7),
        Figure("merge_share", "merging, share of the time of two ranks", must=0.01, at_most=True),
    ],
)

TRAINERS = Measurement(
    name="trainers",
    summary="a step of FrugalTrainer with every sample selected, over a plain Trainer's",
    takes="3 minutes",
    samples=1_600,
    quick_samples=320,
    figures=[
        Figure("one", "one rank: seconds", must=1.05, aim=1.02, at_most=True),
        Figure("one_cpu", "one rank: CPU seconds", must=1.05, aim=1.02, at_most=True),
        Figure("two", "two ranks: seconds", must=1.05, aim=1.02, at_most=True),
        Figure("two_cpu", "two ranks: CPU seconds", must=1.05, aim=1.02, at_most=True),
        Figure("workers", "two workers: seconds", must=1.1, aim=1.0, at_most=True),
        Figure("workers_cpu", "two workers: CPU seconds", must=1.1, aim=1.0, at_most=True),
        Figure("step", "a step of the plain Trainer on one rank, s"),
    ],
)

GPU = Measurement(
    name="gpu",
    summary="the training loop on a GPU: overhead, waits, compilation, precision, memory",
    takes="5 minutes",
    samples=20_000,
    quick_samples=4_000,
    figures=[
        Figure("overhead_small", "LeNet-5, batches of 64: engine / plain loop"),
        Figure("overhead", "ResNet-20, batches of 256: engine / plain loop", 1.05, 1.0, True),
        Figure("waits", "waits for the device in a step", must=0, at_most=True),
        Figure("graphs", "graphs compiled in the second half of the epochs", must=0, at_most=True),
        Figure("bf16", "fp32 / bf16, time of a training"),
        Figure("bf16_gap", "bf16, largest difference of logits / spread", 0.25, at_most=True),
        Figure("fp16_loss", "own loop in fp16, last loss / first", must=1, at_most=True),
        Figure("memory", "peak memory, engine / plain loop", must=1.1, at_most=True),
        Figure("two", "two GPUs / one, rows/s", must=1.6),
    ],
)

_GIB = 2**30

BILLION = Measurement(
    name="billion",
    summary="a ledger of a billion samples in 24 GiB: create, plan, observe, save (40 GB of disk)",
    takes="30 minutes",
    samples=1_000_000_000,
    quick_samples=10_000_000,
    figures=[
        Figure("make", "create, s"),
        Figure("plan", "plan an epoch, 12 % active, s"),
        Figure("observe_rows", "observe the planned rows, rows/s"),
        Figure("save", "save, s"),
        Figure("bytes", "ledger, bytes per sample", must=20, at_most=True),
        Figure("own_memory_bytes", "memory without file pages, bytes", must=4 * _GIB, at_most=True),
        Figure("peak_memory_bytes", "memory with file pages, bytes", must=24 * _GIB, at_most=True),
    ],
)

CASES: list[Case | Measurement] = [
    A, B, TEACHER, COST, LOOP, METERS, OPTIONS, LEDGER, RANKS, TRAINERS, GPU, BILLION,
]  # fmt: skip
