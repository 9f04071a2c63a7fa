"""Attune: from a general pre-trained model and your own data to a specialist that is proven better, shipped and kept good."""

import os as _os

from attune.core import offline as _offline

_offline.apply()
# Threads that wait must not spin: on a machine that does anything else, spinning made a training step up to five times slower (lab/LOG.md).
_os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Batches have ever new sizes, and oneDNN keeps a third of a megabyte for each shape it has met: 1,024 of them by default.
_os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "192")

__version__ = "0.1.0"
