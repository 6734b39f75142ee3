"""Before any training: what selection will pay on a model pair, from a pilot of seconds."""

from frugalkd.experiments.estimate.run import estimate

__all__ = ["estimate"]
