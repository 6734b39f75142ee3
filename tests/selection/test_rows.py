"""Rows against plain slicing of lists."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalkd.errors import UnsupportedData
from frugalkd.selection.rows import Rows, joined

STRUCTURES = ["pair", "named", "mapping", "tensor", "nested"]


class Named(NamedTuple):
    x: torch.Tensor
    label: torch.Tensor


def rows_of_ids(ids, structure="pair", targets=True) -> Rows:
    """Rows that say their own ids in every part."""
    ids = np.asarray(ids, dtype=np.int64)
    x = torch.from_numpy(ids)[:, None].float()
    y = torch.from_numpy(ids % 3)
    data = {
        "pair": (x, y),
        "named": Named(x, y),
        "mapping": {"x": x, "labels": y},
        "tensor": x,
        "nested": {"x": [x, x + 0.5], "labels": y},
    }[structure]
    return Rows(ids, ids * 10, data, x + 0.25 if targets else None)


def check(rows: Rows, ids, structure="pair", targets=True) -> None:
    expected = rows_of_ids(ids, structure, targets)
    assert rows.ids.tolist() == list(ids)
    assert rows.views.tolist() == [10 * id for id in ids]
    assert type(rows.data) is type(expected.data)
    torch.testing.assert_close(rows.data, expected.data, rtol=0, atol=0)
    torch.testing.assert_close(rows.targets, expected.targets, rtol=0, atol=0)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("targets", [True, False])
@settings(max_examples=30, deadline=None)
@given(ids=st.lists(st.integers(0, 99), min_size=1, max_size=20), data=st.data())
def test_rows_are_cut_kept_and_joined_as_lists_are(structure, targets, ids, data):
    rows = rows_of_ids(ids, structure, targets)
    start = data.draw(st.integers(0, len(ids)))
    end = data.draw(st.integers(start, len(ids) + 3))
    check(rows.part(start, end), ids[start:end], structure, targets)
    mask = data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    kept = [id for id, keep in zip(ids, mask, strict=True) if keep]
    check(rows.where(np.array(mask)), kept, structure, targets)
    size = data.draw(st.integers(1, len(ids) + 1))
    parts = list(rows.cut(size))
    assert [len(part.ids) for part in parts] == [
        len(ids[at : at + size]) for at in range(0, len(ids), size)
    ]
    check(joined(parts), ids, structure, targets)


def test_a_part_is_a_view_and_the_whole_is_itself():
    rows = rows_of_ids(range(6))
    part = rows.part(2, 4)
    assert part.data[0].data_ptr() == rows.data[0][2:].data_ptr()
    assert rows.part(0, 6) is rows
    assert next(rows.cut(6)) is rows


def test_targets_that_some_parts_lack_are_left_out():
    assert joined([rows_of_ids([1]), rows_of_ids([2], targets=False)]).targets is None


def test_rows_of_other_widths_are_joined_as_the_user_says():
    def widths(*sizes):
        return [Rows(np.array([n]), np.array([0]), torch.full((1, n), n)) for n in sizes]

    def padded(parts):
        width = max(part.shape[1] for part in parts)
        grown = [torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts]
        return torch.cat(grown)

    assert joined(widths(1, 3, 2), padded).data.tolist() == [[1, 0, 0], [3, 3, 3], [2, 2, 0]]
    with pytest.raises(UnsupportedData, match="say how with join="):
        joined(widths(1, 3))
