"""Kinds of output: what a screening says of a row, by one class for each kind."""

from frugalkd.outputs.distances import Distances
from frugalkd.outputs.embeddings import Embeddings
from frugalkd.outputs.one_class import OneClass
from frugalkd.outputs.output import Output
from frugalkd.outputs.regression import Regression
from frugalkd.outputs.several_labels import SeveralLabels
from frugalkd.outputs.tokens import Tokens

OUTPUTS: dict[str, Output] = {
    kind.name: kind
    for kind in (
        OneClass(),
        SeveralLabels(),
        Regression(),
        Embeddings(),
        Tokens(),
        Distances(),
    )
}

ONE_CLASS = OUTPUTS[OneClass.name]

__all__ = [
    "ONE_CLASS", "OUTPUTS", "Distances", "Embeddings", "OneClass", "Output", "Regression",
    "SeveralLabels", "Tokens",
]  # fmt: skip
