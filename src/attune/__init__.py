"""Attune: from a general pre-trained model and your own data to a specialist that is proven better, shipped and kept good."""

import logging as _logging
import os as _os

from attune.core import offline as _offline
from attune.core import pages as _pages
from attune.core import waiting as _waiting

_offline.apply()
_waiting.apply()
_pages.apply()
# Batches have ever new sizes, and oneDNN keeps a third of a megabyte for each shape it has met: 1,024 of them by default.
_os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "192")

# PEFT imports it wherever it is installed, and then it warns of a package from the hub that it could use.
_logging.getLogger("bitsandbytes").setLevel(_logging.ERROR)

__version__ = "0.1.0"
