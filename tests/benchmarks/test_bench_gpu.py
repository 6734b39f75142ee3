"""The checks of ``make gpu``: each runs on a CPU here, and on a GPU where there is one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.timing import gpu
from benchmarks.timing.case import Measurement, find_case
from benchmarks.timing.cases import CASES
from benchmarks.timing.summary import summarise_figures
from benchmarks.timing.table import case_view
from frugalkd.policies import All
from frugalkd.training.trainer import Trainer

ROWS = 16
TINY = ("mlp", ROWS)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    return request.param


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A model for which a CPU, and few steps, are enough; and the threads of before."""
    monkeypatch.setattr(gpu, "TRAINED", "mlp")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_engine_is_compared_with_a_plain_loop(device):
    found = gpu.ratios(device, 40, *TINY, rounds=2)
    assert len(found) == 2
    assert min(found) > 0


def test_a_step_never_waits_for_the_device(device):
    assert gpu.waits(device, 40, ROWS) == 0


@pytest.mark.parametrize(
    "wait", [lambda it: it.item(), lambda it: bool(it > 0), lambda it: it[it > 0], torch.nonzero]
)
def test_what_waits_is_counted(device, wait, monkeypatch):
    step = Trainer.train_step

    def waiting(self, batch, epoch):
        step(self, batch, epoch)
        wait(batch.weights.sum())

    monkeypatch.setattr(Trainer, "train_step", waiting)
    assert gpu.waits(device, 40, ROWS) == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch's own import
@pytest.mark.heavy
def test_nothing_is_compiled_in_the_second_half_of_a_training(device):
    backend = "eager" if device == "cpu" else "inductor"
    first, later = gpu.graphs(device, 40, ROWS, backend)
    assert first > 0
    assert later == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.heavy
def test_graphs_of_later_epochs_are_counted(monkeypatch):
    step = Trainer.train_step

    def growing(self, batch, epoch):
        if epoch.index == gpu.EPOCHS - 1:
            torch.compiler.reset()  # as a model does whose shapes never repeat
        step(self, batch, epoch)

    monkeypatch.setattr(Trainer, "train_step", growing)
    monkeypatch.setattr(gpu, "SelfRegulation", lambda confidence: All())
    assert gpu.graphs("cpu", 40, ROWS, "eager")[1] > 0


@pytest.mark.heavy
def test_bf16_trains_nearly_the_same_model(device):
    assert 0 < gpu.gap_of_bf16(device, 40, ROWS) < 0.25
    assert len(gpu.speedup_of_bf16(device, 40, rounds=1)) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_loop_of_ones_own_learns_in_half_precision(device, dtype):
    assert gpu.own_loop(device, 120, dtype, ROWS) < 1


@pytest.mark.heavy
def test_peak_memory_is_compared_where_it_is_counted(device):
    found = gpu.memory(device, 40)
    assert found is None if device == "cpu" else found and found > 0


@pytest.mark.gpu
def test_two_gpus_are_faster_than_one():
    if torch.cuda.device_count() < 2:
        pytest.skip(f"torch finds {torch.cuda.device_count()} CUDA devices, and two are needed")
    assert (gpu.two("cuda", 2_000) or 0) > 1


def test_one_gpu_is_not_compared_with_two():
    assert gpu.two("cpu", 40) is None


@pytest.mark.heavy
def test_every_figure_is_measured_or_left_out(monkeypatch):
    for name in ("SMALL", "LARGE"):
        monkeypatch.setattr(gpu, name, TINY)
    monkeypatch.setattr(gpu, "graphs", lambda *_: (1, 0))
    case = find_case("gpu", CASES)
    assert isinstance(case, Measurement)
    measured = gpu.measure(40, "cpu", rounds=1)
    missing = {name for name, value in measured.items() if value is None}
    assert missing == {"memory", "two"}
    content = summarise_figures(case, measured, {}, quick=True)
    shown = [figure["figure"] for figure in content["figures"]]
    assert shown == [figure.name for figure in case.figures if figure.name not in missing]
    case_view(content)


def test_a_machine_without_a_gpu_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main() == 0
    out, err = capsys.readouterr()
    assert (
        out == f"no GPU: torch {torch.__version__} finds no CUDA device, so nothing was checked\n"
    )
    assert err == ""


@pytest.mark.parametrize("tests", [0, 1])
@pytest.mark.parametrize("gap", [0.1, 0.5])
def test_a_missed_bound_or_test_is_an_error(tests, gap, monkeypatch, tmp_path, capsys):
    figure = {"figure": "f", "about": "a gap", "at_most": True, "must": 0.25, "aim": None,
              "value": {"median": gap, "min": gap, "max": gap, "n": 1},
              "reached": {"must": gap <= 0.25, "aim": None}}  # fmt: skip
    content = {"case": "gpu", "summary": "s", "threads": 1, "quick": False, "arms": [],
               "ratios": [], "figures": [figure], "failed": []}  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("pytest.main", lambda arguments: tests)
    monkeypatch.setattr("benchmarks.timing.run.bench", lambda *_: content)
    assert gpu.main() == int(tests or gap > 0.25)
    assert "a gap" in capsys.readouterr().out


def test_pictures_are_of_the_size_that_is_named():
    data = gpu.pictures(30, size=8, channels=1)
    assert data.shape == (1, 8, 8)
    assert nn.Flatten()(data.batch([0], [0])[0]).shape == (1, 64)
