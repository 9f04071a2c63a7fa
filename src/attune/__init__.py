"""Attune: from a general pre-trained model and your own data to a specialist that is proven better, shipped and kept good."""

import logging as _logging
import os as _os

from attune.core import offline as _offline
from attune.core import pages as _pages
from attune.core import waiting as _waiting

_offline.apply()
_waiting.apply()
_pages.apply()
# Batches have ever new sizes, and for each shape that a product met torch keeps its description and oneDNN another one with the program, 0.3 MB each,
# 1,024 of either by default, between the tensors. A step meets fewer (15 to 90), because its layers meet the same ones (lab/LOG.md).
_os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "192")
_os.environ.setdefault("LRU_CACHE_CAPACITY", "128")

# PEFT imports it wherever it is installed, and then it warns of a package from the hub that it could use.
_logging.getLogger("bitsandbytes").setLevel(_logging.ERROR)

__version__ = "0.1.0"
