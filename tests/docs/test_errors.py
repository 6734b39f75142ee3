"""What errors say."""

from __future__ import annotations

import pickle

import pytest

from frugalkd.errors import (
    FrugalKDError,
    LedgerError,
    NonFiniteLoss,
    UnknownName,
    WriteFailed,
    few,
    nearest,
    refuse_schema,
)


def subclasses(of: type[FrugalKDError]) -> list[type[FrugalKDError]]:
    return [cls for each in of.__subclasses__() for cls in (each, *subclasses(each))]


def test_every_error_says_what_to_do():
    ours = [cls for cls in subclasses(FrugalKDError) if cls.__module__ == "frugalkd.errors"]
    assert len(ours) >= 12
    for cls in ours:
        assert "What to do: " in (cls.__doc__ or ""), cls


def test_a_name_is_answered_by_the_nearest():
    assert str(UnknownName("mode", "vanila", ["vanilla", "hybrid"])) == (
        "unknown mode 'vanila': did you mean vanilla?"
    )
    assert nearest("xyz", ["b", "a"]) == "known are a, b"
    assert len(str(UnknownName("mode", "a" * 5000, ["vanilla"]))) < 200


def test_gpu_is_not_cpu():
    assert nearest("gpu", ["auto", "cpu", "cuda"]) == "did you mean cuda?"
    assert nearest("gpu", ["auto", "cpu"]) == "did you mean cpu?"


def test_few_ids_are_shown():
    assert few(list(range(8))) == "0, 1, 2, 3, 4, 5, 6, 7"
    assert few(list(range(9))) == "0, 1, 2, 3, 4, 5, 6, 7 and 1 more"


def test_a_non_finite_loss_names_where_and_what_to_do():
    error = NonFiniteLoss(epoch=1, step=2, ids=[3], what="the loss")
    assert (error.epoch, error.step, error.ids) == (1, 2, [3])
    assert str(error).startswith("the loss is not finite at epoch 1, step 2, samples 3: lower the")
    other = NonFiniteLoss(epoch=1, step=2, ids=[3], what="the input", advice="clean it")
    assert str(other).endswith("samples 3: clean it")


def test_a_failed_write_is_an_os_error_of_one_line():
    error = WriteFailed(28, "cannot write x: No space left on device: free some space")
    assert isinstance(error, OSError)
    assert error.errno == 28
    assert error.filename is None
    assert str(error) == "cannot write x: No space left on device: free some space"
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(again), again.errno) == (str(error), 28)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (2, "x is of schema 2, from a newer frugalkd; this one reads schema 1: install a newer"),
        ("7", "x is of schema 7, from a newer"),
        ("9" * 5000, "x is of schema 999999999, from a newer"),
        (0, "x is of schema 0, from an older frugalkd; this one reads schema 1: make it again"),
        (None, "x does not say its schema (1 is read here): make it again"),
        ([1], "x does not say its schema"),
        (1.5, "x does not say its schema"),
    ],
)
def test_another_schema_is_refused_with_the_way_out(found, says):
    with pytest.raises(LedgerError) as caught:
        refuse_schema(found, 1, "x", LedgerError, "make it again")
    assert str(caught.value).startswith(says)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("found", [1, "1"])
def test_our_schema_passes(found):
    refuse_schema(found, 1, "x", LedgerError, "make it again")
