from __future__ import annotations

import json

import pytest


@pytest.fixture
def written(tmp_path):
    """``written(content)``: a comparison's folder that holds it."""

    def write(content):
        (tmp_path / "comparison.json").write_text(json.dumps(content))
        return tmp_path

    return write
