"""Texts as token ids: every operation against plain lists, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalkd import DataLoading, Sampling, Selection, SelfRegulation, StoredTargets
from frugalkd.data import TextData, hold_out, load_data, take
from frugalkd.data.batches import split
from frugalkd.data.named import read_lines
from frugalkd.data.probe import data_digest, randomness
from frugalkd.data.text import Tokens
from frugalkd.errors import DataError
from frugalkd.models.flops import flops_of_data, flops_per_row
from frugalkd.models.text import TextCNN
from frugalkd.teachers.encodings import Dense
from frugalkd.training.evaluation import predict

PAD = 7


def tokens(rows) -> Tokens:
    ids = np.array([id for row in rows for id in row], dtype=np.int32)
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    return Tokens(ids, ends, 100, PAD, "words", 16)


def texts(rows, classes=4) -> TextData:
    labels = torch.arange(len(rows)) % classes
    names = tuple(map(str, range(classes)))
    return TextData(tokens(rows), labels, names, lambda ids: [str(rows[id]) for id in ids])


some_rows = st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=1, max_size=12)


def padded(rows):
    width = max(1, *map(len, rows)) if rows else 1
    ids = [row + [PAD] * (width - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return ids, mask


@given(rows=some_rows, data=st.data())
@settings(max_examples=100, deadline=None)
@pytest.mark.heavy
def test_batches_and_subsets_are_those_of_lists(rows, data):
    made = texts(rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=8))
    ids, mask = padded([rows[id] for id in chosen])
    batch = made.batch(np.array(chosen), np.zeros(len(chosen)))
    assert batch["input_ids"].tolist() == ids
    assert batch["attention_mask"].tolist() == mask
    assert batch["labels"].tolist() == [id % 4 for id in chosen]
    part = made.subset(chosen)
    assert part.lengths.tolist() == [len(rows[id]) for id in chosen]
    of_part = data.draw(st.lists(st.integers(0, len(chosen) - 1), max_size=5))
    assert part.texts(of_part) == [str(rows[chosen[id]]) for id in of_part]
    with pytest.raises(IndexError):
        part.texts([len(chosen)])
    again = part.batch(np.arange(len(chosen)), None)
    assert all(torch.equal(again[name], batch[name]) for name in batch)
    assert part[0]["input_ids"].tolist() == (rows[chosen[0]] or [PAD])


@given(rows=some_rows, cut=st.integers(1, 11))
@settings(max_examples=50, deadline=None)
def test_joined_batches_are_the_batch_of_all(rows, cut):
    made = texts(rows)
    ids = np.arange(len(rows))
    parts = [made.batch(part, None) for part in (ids[:cut], ids[cut:]) if len(part)]
    whole = made.batch(ids, None)
    joined = made.join(parts)
    assert all(torch.equal(joined[name], whole[name]) for name in whole)


def test_the_digest_differs_between_texts():
    rows = [[1, 2], [3], [4, 5, 6]]
    one = data_digest(texts(rows))
    assert one == data_digest(texts(rows))
    assert one != data_digest(texts([[1], [2, 3], [4, 5, 6]]))
    assert one != data_digest(texts(rows, classes=2))
    assert not randomness(texts(rows))


def test_a_recipe_can_cut_them():
    made = texts([[number] for number in range(20)])
    train, validation = hold_out(made, 5)
    found = [part.tokens.ids.tolist() for part in (train, validation)]
    assert sorted(found[0] + found[1]) == list(range(20))
    assert len(validation) == 5
    assert len(take(made, 7)) == 7


def test_what_is_refused():
    with pytest.raises(DataError, match="2 labels for 3 texts"):
        TextData(tokens([[1], [2], [3]]), torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(DataError, match=r"labels lie in 0 \.\. 2"):
        TextData(tokens([[1], [2]]), torch.tensor([0, 2]), ("a", "b"))
    with pytest.raises(IndexError):
        texts([[1]]).batch([1], [0])


@pytest.mark.parametrize("when", ["now", "last-visit"])
def test_padding_reaches_no_sample(when):
    """Rows that wait under gate-now come from batches of other widths."""
    rows = [[1 + n % 5] * (1 + n % 7) for n in range(40)]
    made = texts(rows)

    class Sums(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            total = (input_ids * attention_mask).sum(1, keepdim=True).float()
            return torch.cat([total, -total, total * 0, total * 0], dim=1)

    selection = Selection(
        made,
        epochs=1,
        batch_size=8,
        model=Sums(),
        sampling=Sampling(policy=SelfRegulation(when=when)),
        loading=DataLoading(length_bucket_batches=2),
    )
    seen = []
    for epoch in selection:
        for batch in epoch:
            for row, id in enumerate(batch.ids):
                known = batch.data["attention_mask"][row].bool()
                assert batch.data["input_ids"][row][known].tolist() == rows[id]
                assert (batch.data["input_ids"][row][~known] == PAD).all()
            seen += batch.ids.tolist()
            inputs = {k: batch.data[k] for k in ("input_ids", "attention_mask")}
            batch.observe(Sums()(**inputs))
    assert set(seen) >= {id for id in range(40) if id % 4 != 0}


def test_full_passes_sort_by_length_and_return_in_order():
    """Evaluation, stored targets and FLOPs, against texts one by one."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 90, rng.integers(1, 30)).tolist() for _ in range(70)]
    made, model = texts(rows), TextCNN(4, 100, width=4, hidden=4).eval()
    with torch.no_grad():
        one_by_one = torch.cat([model(**split(made.batch([id], [0]))[0]) for id in range(70)])
    probabilities, labels = predict(model, made, batch_size=16)
    np.testing.assert_allclose(probabilities, one_by_one.softmax(1).numpy(), atol=1e-6)
    assert labels is not None
    assert labels.tolist() == made.labels.tolist()
    part, _ = predict(model, made, batch_size=4, ids=np.array([9, 3, 60]))
    np.testing.assert_allclose(part, one_by_one[[9, 3, 60]].softmax(1).numpy(), atol=1e-6)
    stored = StoredTargets.fill(model, made, encoding=Dense("float32"), batch_size=16)
    np.testing.assert_allclose(stored.all_logits(), one_by_one.numpy(), atol=1e-5)
    typical = np.argsort(np.abs(made.lengths - made.lengths.mean()), kind="stable")[:2]
    inputs = split(made.batch(typical, [0, 0]))[0]
    assert flops_of_data(model, made, torch.device("cpu")) == flops_per_row(model, inputs, 2)


def test_texts_alone_have_no_labels():
    texts = TextData.of(["one two", "three", "four five six"])
    assert len(texts) == 3
    assert texts.labels is None
    assert texts.num_classes == 0
    assert texts[1].keys() == {"input_ids", "attention_mask"}
    some = texts.subset([2, 0])
    assert some.texts([0, 1]) == ["four five six", "one two"]
    batches = [some.batch([0], [0]), some.batch([1], [0])]
    assert some.join(batches)["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    labelled = TextData(texts.tokens, torch.zeros(3, dtype=torch.int64), ("a",))
    assert texts.digest() != labelled.digest()
    assert texts.digest() == TextData.of(["one two", "three", "four five six"]).digest()


def test_lines_of_a_file(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(f"line {place}\n" for place in range(10)))
    parts = load_data("text-lines", path=str(file), test=0.3)
    assert (len(parts.train), len(parts.test)) == (7, 3)
    assert load_data("text-lines", tmp_path, path="lines.txt", test=0.3).train.names([0])
    for content, says in ((b"\xff\xfe\x00", "is not UTF-8"), (b"one", "hold-out of 0 rows")):
        file.write_bytes(content)
        with pytest.raises(DataError, match=says):
            load_data("text-lines", path=str(file), test=0.3)
    with pytest.raises(DataError, match=r"nothing\.txt: cannot be read"):
        load_data("text-lines", tmp_path, path="nothing.txt")


def test_only_line_ends_end_a_line(tmp_path):
    (tmp_path / "lines.txt").write_bytes("a\u2028b\x0b\x0c\x85c\r\n\nd\re\n".encode())
    assert read_lines(tmp_path / "lines.txt") == ["a\u2028b\x0b\x0c\x85c", "", "d", "e"]
    (tmp_path / "lines.txt").write_text("")
    assert read_lines(tmp_path / "lines.txt") == []
