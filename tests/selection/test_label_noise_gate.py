"""A selection whose gate disbelieves labels: what is trained and screened, alone and on ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from frugalkd import Sampling, SelfRegulation
from frugalkd.errors import SelectionMisuse
from frugalkd.selection import Selection
from frugalkd.teachers import LiveTeacher
from ranking import on_ranks
from toys import Ids

LABELS = np.arange(12) % 3
WRONG = np.array([9, 10, 11])
EPOCHS = 12


def logits_of(ids, epoch, believed_from=99):
    """Sure of the label, but not enough to pass; of another class for the samples ``WRONG``."""
    ids = torch.as_tensor(ids).long()
    top = torch.from_numpy(LABELS)[ids]
    refused = torch.isin(ids, torch.from_numpy(WRONG)) & (epoch < believed_from)
    return 2.5 * nn.functional.one_hot(torch.where(refused, (top + 1) % 3, top), 3).float()


def go_through(policy, believed_from=99, **more):
    """The ids trained in each epoch, those screened, and the selection."""
    screened = [[] for _ in range(EPOCHS)]

    def forward(data):
        ids = data[0][:, 0].long()
        screened[selection.epoch] += ids.tolist()
        return logits_of(ids, selection.epoch, believed_from)

    selection = Selection(
        Ids(LABELS), epochs=EPOCHS, batch_size=2, seed=1, model=nn.Identity(), forward=forward,
        sampling=Sampling(policy), **more,
    )  # fmt: skip
    trained = []
    for epoch in selection:
        trained.append([])
        for batch in epoch:
            batch.observe(logits_of(batch.ids, epoch.index, believed_from), batch.data[1])
            trained[-1] += batch.ids.tolist()
    return trained, screened, selection


def epochs_with(id, epochs):
    return [epoch for epoch, ids in enumerate(epochs) if id in ids]


GATE = SelfRegulation(max_skip=2, label_noise=0.25)


def disbelieved(selection):
    return np.flatnonzero(selection.ledger["disbelieved"]).tolist()


def test_after_five_epochs_a_wrong_label_is_screened_alone():
    trained, screened, selection = go_through(GATE)
    for id in range(12):
        assert epochs_with(id, trained) == (list(range(5)) if id in WRONG else list(range(EPOCHS)))
        assert epochs_with(id, screened) == ([7, 10] if id in WRONG else [])
    assert disbelieved(selection) == WRONG.tolist()
    assert selection.ledger["visits"][WRONG].tolist() == [7, 7, 7]


@pytest.mark.parametrize(("noise", "known"), [("auto", True), (0.25, False), ("off", False)])
def test_auto_knows_the_labels_that_data_list(noise, known):
    """It leaves classes alone of which the model refuses most."""
    _, _, selection = go_through(SelfRegulation(max_skip=2, label_noise=noise))
    labels = selection.ledger.labels
    assert (labels is not None) is known
    assert labels is None or labels.tolist() == LABELS.tolist()


def test_a_label_that_is_accepted_again_is_trained_on():
    trained, screened, selection = go_through(GATE, believed_from=7)
    for id in WRONG:
        assert epochs_with(id, trained) == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
        assert epochs_with(id, screened) == [7]
    assert disbelieved(selection) == []


def test_gate_now_reads_wrong_labels_and_does_not_train_on_them():
    trained, screened, _ = go_through(SelfRegulation(when="now", max_skip=2, label_noise=0.25))
    for id in range(12):  # the whole of each epoch is read, and a wrong label once in a while
        assert epochs_with(id, screened) == (
            [0, 1, 2, 3, 4, 7, 10] if id in WRONG else list(range(EPOCHS))
        )
    for epoch, ids in enumerate(trained):  # an odd row may be left to the next epoch
        assert (set(ids) & set(WRONG.tolist()) != set()) == (epoch < 5)
        assert abs(len(ids) - (12 if epoch < 5 else 9)) <= 1


class Says(nn.Module):
    """A teacher that says the class ``step`` after the label."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, x):
        top = torch.from_numpy(LABELS)[x[:, 0].long()]
        return nn.functional.one_hot((top + self.step) % 3, 3).float()


@pytest.mark.parametrize("step", [0, 1, 2])
def test_with_a_teacher_both_have_to_refuse_a_label(step):
    """The teacher says the label (0), the student's class where that refuses the label (1), or
    neither of both (2)."""
    _, _, selection = go_through(GATE, targets=LiveTeacher(Says(step)))
    assert disbelieved(selection) == (WRONG.tolist() if step == 1 else [])
    assert selection.ledger.correct[WRONG].all() == (step == 1), "the teacher decides"


def _on_a_rank():
    trained, _, selection = go_through(GATE)
    return trained, selection.ledger


@pytest.mark.heavy
def test_ranks_disbelieve_the_same_labels():
    (first, ledger), (second, other) = on_ranks(2, _on_a_rank)
    assert all(ledger[name].tobytes() == other[name].tobytes() for name in ledger.columns)
    for epoch in range(5, EPOCHS):  # nine samples in steps of four: the rest is deferred
        rows = first[epoch] + second[epoch]
        assert len(rows) == 8
        assert not set(rows) & set(WRONG.tolist())


def test_a_state_keeps_what_is_disbelieved():
    """It is taken within the eighth epoch."""

    def made():
        return Selection(
            Ids(LABELS), epochs=EPOCHS, batch_size=2, seed=1, model=nn.Identity(),
            forward=lambda data: logits_of(data[0][:, 0], 7), sampling=Sampling(GATE),
        )  # fmt: skip

    def go_on(selection):
        for epoch in selection:
            for batch in epoch:
                batch.observe(logits_of(batch.ids, epoch.index), batch.data[1])
                if epoch.index == 7:
                    states.append(selection.state_dict())
            counts.append(epoch.summary.get("disbelieved", 0))

    states, counts = [], []
    go_on(whole := made())
    assert counts == [0] * 5 + [3] * 7
    (again := made()).load_state_dict(states[0])
    counts.clear()
    go_on(again)
    assert counts == [3] * 5
    for name, column in whole.ledger.columns.items():
        assert again.ledger[name].tobytes() == column.tobytes(), name


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"label_free": True}, "leave label_noise out"),
        ({"output": "embeddings"}, "and label_noise"),
    ],
)
def test_what_label_noise_cannot_go_with(more, says):
    with pytest.raises(SelectionMisuse, match=says):
        Selection(
            Ids(LABELS), epochs=1, batch_size=2, model=nn.Identity(), targets=LiveTeacher(Says(0)),
            sampling=Sampling(GATE, **more),
        )  # fmt: skip


def test_targets_without_a_top_class_leave_it_to_the_labels(monkeypatch):
    targets = LiveTeacher(Says(0))
    monkeypatch.setattr(targets, "knows_top", False)
    trained, _, selection = go_through(GATE, targets=targets)
    assert disbelieved(selection) == WRONG.tolist()
    assert all(epochs_with(id, trained) == [0, 1, 2, 3, 4] for id in WRONG)


@pytest.mark.parametrize("old", [None, "1"])
def test_a_state_of_another_rule_is_refused(old):
    """One that is made by an earlier version, which entered none, or says another."""
    _, _, selection = go_through(GATE)
    state = selection.state_dict()
    if old is None:
        del state["choice"]["version of label_noise"]
    else:
        state["choice"]["version of label_noise"] = old
    with pytest.raises(SelectionMisuse, match="another version of label_noise"):
        selection.load_state_dict(state)
    _, _, plain = go_through(SelfRegulation(max_skip=2))
    assert "version of label_noise" not in plain.state_dict()["choice"]
