"""Names of classes: whose they are, and how two orders of them match."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from frugalkd.data.class_names import (
    class_names,
    class_order,
    labels_by_name,
    names_from,
    names_text,
)
from frugalkd.errors import DataError, TargetsError
from toys import Ids, images

ABC, CAB = ("a", "b", "c"), ("c", "a", "b")


class Named(Ids):
    def __init__(self, classes):
        super().__init__([0, 1])
        self.classes = classes


class OfTheHub(Ids):
    def __init__(self, name, names):
        super().__init__([0, 1])
        self.features = {name: type("ClassLabel", (), {"names": names})()}


def test_names_are_found_where_data_sets_keep_them():
    assert class_names(Ids([0, 1])) == ()
    named = Named(["x", 7])
    assert class_names(named) == ("x", "7")
    assert class_names(Subset(Subset(named, [0]), [0])) == ("x", "7")
    assert class_names(images(4)) == ("0", "1", "2", "3")
    assert class_names(OfTheHub("label", ["no", "yes"])) == ("no", "yes")
    assert class_names(OfTheHub("labels", ["no", "yes"])) == ("no", "yes")
    assert class_names(OfTheHub("label", None)) == ()
    assert class_names(Named(10)) == ()  # how many there are


@pytest.mark.parametrize("match", ["same", "by-name", "by-position"])
def test_what_is_the_same_or_not_known_needs_no_order(match):
    for own, wanted in ((ABC, ABC), (ABC, ()), ((), ABC), (("a", "a"), ["a", "a"])):
        assert class_order(own, wanted, match) is None


def test_another_order_is_refused_ordered_or_taken_as_it_is():
    with pytest.raises(TargetsError, match=r"^the teacher .* another order .class 0 is 'a' there "):
        class_order(ABC, CAB, "same")
    order = class_order(ABC, CAB, "by-name")
    assert order is not None
    assert [ABC[place] for place in order] == list(CAB)
    assert class_order(ABC, CAB, "by-position") is None


@pytest.mark.parametrize(
    ("own", "wanted", "says"),
    [
        (ABC, ("a", "b", "d"), "'c' there, 'd' in the data"),
        (ABC, ("a", "b"), "3 there, 2 in the data"),
        (("a", "a", "b"), ("a", "b", "a"), "'a', 'a', 'b' there"),
        (tuple("abcdefg"), tuple("tuvwxyz"), r"'a', 'b', 'c', \.\.\. there"),
        (("x" * 100, "\x1b[2J"), ("y", "z"), r"'x{40}', '\\x1b\[2J' there"),
    ],
)
@pytest.mark.parametrize("match", ["same", "by-name"])
def test_other_names_are_refused(own, wanted, says, match):
    with pytest.raises(TargetsError, match=rf"^(?!.*\n)the store has other classes .*{says}"):
        class_order(own, wanted, match, "the store")


def test_by_position_needs_as_many_names():
    assert class_order(ABC, tuple("xyz"), "by-position") is None
    with pytest.raises(TargetsError, match="3 there, 2 in the data"):
        class_order(ABC, ("x", "y"), "by-position")


def test_labels_count_the_models_classes():
    labels = np.array([0, 1, 2, 2])
    assert labels_by_name(labels, CAB, ABC, "d").tolist() == [2, 0, 1, 1]
    assert labels_by_name(labels[:2], CAB[:2], ABC, "d").tolist() == [2, 0]  # some of them
    for same in ((ABC, ABC), ((), ABC), (ABC, ())):
        assert labels_by_name(labels, *same, "d") is labels
    assert labels_by_name(labels, tuple("bcad"), ABC, "d").tolist() == [1, 2, 0, 0]  # no row of d
    for other in (("a", "d", "b"), tuple("abdc")):
        with pytest.raises(DataError, match=r"^d has other classes than the model"):
            labels_by_name(labels, other, ABC, "d")
    with pytest.raises(DataError):
        labels_by_name(labels, ABC, ("a", "a", "b", "c"), "d")


@pytest.mark.parametrize("hidden", [-1, 3])
def test_labels_outside_the_classes_have_no_name(hidden):
    with pytest.raises(DataError, match=rf"^d has a label {hidden}, and its classes are 0 \.\. 2"):
        labels_by_name(np.array([0, hidden]), CAB, ABC, "d")
    assert not len(labels_by_name(np.array([], dtype=np.int64), CAB, ABC, "d"))


def test_names_in_a_header_come_back():
    names = ("a\nb", '"', "ß", "")
    assert names_from(names_text(names)) == names
    many = tuple(map(str, range(200_000)))
    assert len(names_text(many)) < 100
    assert names_from(names_text(many)) == ()
    for damaged in ("", "{}", "[1]", "[" * 100_000):
        assert names_from(damaged) == ()


def test_names_in_an_array_and_of_joined_data_are_known():
    class Named(torch.utils.data.TensorDataset):
        def __init__(self, *names):
            super().__init__(torch.zeros(2))
            self.classes = np.array(names)

    joined = torch.utils.data.ConcatDataset
    assert class_names(Named("x", "y")) == ("x", "y")
    assert class_names(joined([Named("x", "y"), Named("x", "y")])) == ("x", "y")
    with pytest.raises(DataError, match="different class names"):
        class_names(joined([Named("x", "y"), Named("y", "x")]))
