"""Policy + data + targets -> epochs of batches, usable in any training loop."""

from frugalkd.selection._batch import Batch
from frugalkd.selection._epoch import Epoch
from frugalkd.selection._selection import Selection

__all__ = ["Batch", "Epoch", "Selection"]
