"""Before any training: what selection will save on a model pair, from a pilot of seconds."""

from frugalkd.experiments.estimate.run import estimate

__all__ = ["estimate"]
