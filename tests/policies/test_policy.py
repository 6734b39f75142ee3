"""What policies share."""

from __future__ import annotations

import numpy as np

from frugalkd.policies.policy import at_sorted


def test_values_at_all_ids_are_the_column_itself():
    column = np.arange(20) ** 2
    assert at_sorted(column, np.arange(20)) is column
    ids = np.array([3, 7])
    assert at_sorted(column, ids).tolist() == column[ids].tolist()
