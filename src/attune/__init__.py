"""Attune: from a general pre-trained model and your own data to a specialist that is proven better, shipped and kept good."""

import os as _os

from attune.core import offline as _offline
from attune.core import waiting as _waiting

_offline.apply()
_waiting.apply()
# Batches have ever new sizes, and oneDNN keeps a third of a megabyte for each shape it has met: 1,024 of them by default.
_os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "192")

__version__ = "0.1.0"
