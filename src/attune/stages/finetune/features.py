"""What a frozen body answers to the rows of a run is computed once for all runs: it lies on disk, mapped into memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import torch

from attune.core.contracts import Example
from attune.core.events import Events
from attune.core.recipe_train import TrainKeys
from attune.core.records import digest
from attune.core.specialist import Specialist, text_features
from attune.stages.finetune.cache import Cache, NoRoom

VERSION = 1
FILE = "features.bin"


def keep_features(specialist: Specialist, examples: Sequence[Example], folder: Path, keys: TrainKeys, events: Events) -> tuple[str, IO[bytes] | None]:
    """Give a specialist with a frozen body the pooled features of all texts of these examples, from an earlier run or computed now.

    Args:
        specialist: one whose body trains is left as it is.
        examples: those that hold no `text` too.
        folder: of the cache.
        keys: for the cache's limit.
        events: told where something had to go.

    Returns:
        what became of them, for the record; an open file, until whose closing they stay on disk, or None where they do not fit there and are kept in memory.
    """
    if not specialist.model.body_is_frozen() or not all("text" in one for one in examples):
        return "", None
    cache = Cache(folder, None if keys.cache_gb is None else keys.cache_gb * 1e9, events)
    texts = list(dict.fromkeys(one["text"] for one in examples))
    model = specialist.model
    model.eval()
    specialist.known_features = {}

    def compute(place: Path) -> None:
        _features(specialist, texts).numpy().tofile(place / FILE)

    width = _features(specialist, texts[:1]).shape[1]
    depends = {"base": specialist.base.identity, "as": model.frozen_as, "pooling": model.pooling, "max_length": specialist.max_length, "texts": digest(texts), "version": VERSION}
    need = 4 * len(texts) * width
    try:
        place, in_use, there = cache.keep(f"features-{digest(depends)[:32]}", need, compute)
    except NoRoom as error:
        _features(specialist, texts)  # together, as for the disk: in other batches they would be rounded otherwise
        return f"kept in memory: {error}", None
    table = torch.from_file(str(place / FILE), shared=False, size=len(texts) * width, dtype=torch.float32).view(-1, width)
    specialist.known_features = dict(zip(texts, table, strict=True))
    return f"{'on disk from an earlier run' if there else 'on disk for later runs'} ({need / 1e6:,.1f} MB)", in_use


def _features(specialist: Specialist, texts: Sequence[str]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = text_features(specialist, texts)
    return found
