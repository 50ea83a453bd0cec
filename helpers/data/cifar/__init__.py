"""CIFAR-10 (Krizhevsky 2009, *Learning multiple layers of features from tiny images*): 60,000 small colour photographs.

:func:`cifar10` looks for them in a folder, in a cache of its own, and then downloads them:

* :mod:`.images`: what the set is, and the check that every way of reading ends with;
* :mod:`.parquet`, :mod:`.batches`: the two formats in which people keep it;
* :mod:`.cache`: one file of raw bytes that loads in a fraction of a second;
* :mod:`.download`: the two places that it comes from;
* :mod:`.lookup`: the order of all that.
"""

from .images import CIFAR10
from .lookup import cifar10

__all__ = ["CIFAR10", "cifar10"]
