"""Policy + data + targets -> epochs of batches, usable in anybody's training loop.

:mod:`~frugalkd.selection.large` and :mod:`~frugalkd.selection.entering` are for loops over more
samples than a Selection holds.
"""

from frugalkd.selection._batch import Batch
from frugalkd.selection._epoch import Epoch
from frugalkd.selection._selection import Selection

__all__ = ["Batch", "Epoch", "Selection"]
