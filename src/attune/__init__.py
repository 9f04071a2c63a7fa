"""Attune: from a general pre-trained model and your own data to a specialist that is proven better, shipped and kept good."""

from attune.core import offline as _offline

_offline.apply()

__version__ = "0.1.0"
