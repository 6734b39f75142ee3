"""Policy + data + targets -> epochs of batches, usable in any training loop."""

from frugalkd.selection._epoch import Batch, Epoch
from frugalkd.selection._selection import Selection
from frugalkd.selection.rows import DataLoading

__all__ = ["Batch", "DataLoading", "Epoch", "Selection"]
