"""Which texts are nearly the same: MinHash finds the candidates, the exact Jaccard similarity of their shingles decides."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from attune.core.text import normalise

if TYPE_CHECKING:
    import numpy as np

BANDS, ROWS_IN_BAND = 25, 5
"""A pair of Jaccard similarity s becomes a candidate with probability 1 - (1 - s^5)^25: above 0.9999 at 0.8 (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4)."""
SEED = 42
CHARACTERS = 4
_NO_WORD = re.compile(r"[\W_]+")
AT_MOST = 50_000
"""Characters of a text that are compared."""
CHUNK = 2000
LARGE_BUCKET = 50
"""In a larger bucket every text is compared with the first of its near-equals only, so that templates do not cost a square."""


def shingles(text: str) -> frozenset[str]:
    """All runs of `CHARACTERS` characters, without punctuation where there are words, with a space at both ends; a shorter text is one shingle."""
    plain = normalise(text[:AT_MOST])
    plain = f" {_NO_WORD.sub(' ', plain).strip() or plain} "
    return frozenset(plain[i : i + CHARACTERS] for i in range(max(1, len(plain) - CHARACTERS + 1)))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Size of the intersection over size of the union, in (0, 1]; sets of shingles are never empty."""
    common = len(left & right)
    return common / (len(left) + len(right) - common)


def similar_pairs(texts: Sequence[str], threshold: float, progress: Callable[[int, int], None] | None = None) -> list[tuple[int, int, float]]:
    """Pairs (i, j, similarity) with i < j whose similarity is at least `threshold`; enough of them to join every near-equal text to its group.

    Args:
        texts: what is compared, after normalisation.
        threshold: smallest Jaccard similarity of character shingles, in [0.7, 1]; below, MinHash would miss pairs.
        progress: told (texts done, texts), twice over: once for hashing, once for comparing.
    """
    same: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        same[normalise(text[:AT_MOST])].append(i)
    pairs = [(members[0], other, 1.0) for members in same.values() for other in members[1:]]
    unique = [members[0] for members in same.values()]

    @lru_cache(maxsize=CHUNK)
    def shingles_of(i: int) -> frozenset[str]:
        return shingles(texts[i])

    seen: set[tuple[int, int]] = set()
    for bucket in _buckets([texts[i] for i in unique], progress or (lambda done, total: None)):
        members = [unique[place] for place in bucket]
        heads: list[int] = []
        for place, j in enumerate(members):
            joined = False
            for i in heads if len(members) > LARGE_BUCKET else members[:place]:
                if (i, j) in seen:
                    joined = True
                    continue
                similarity = jaccard(shingles_of(i), shingles_of(j))
                if similarity >= threshold:
                    seen.add((i, j))
                    pairs.append((i, j, similarity))
                    joined = True
            if not joined:
                heads.append(j)
    return sorted(pairs)


def _buckets(texts: Sequence[str], progress: Callable[[int, int], None]) -> Iterator[list[int]]:
    """Ascending indexes of texts that agree in all rows of a band, for every band."""
    import numpy as np

    digests = _digests(texts, progress)
    mixer = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5, 0x85EBCA77C2B2AE63], dtype=np.uint64)
    for band in range(BANDS if len(digests) else 0):
        progress(len(texts) + band * len(texts) // BANDS, 2 * len(texts))
        part = digests[:, band * ROWS_IN_BAND : (band + 1) * ROWS_IN_BAND]
        names = (part * mixer).sum(axis=1, dtype=np.uint64)  # two bands with one name only cost a comparison
        order = np.argsort(names, kind="stable")
        ends = np.flatnonzero(np.diff(names[order])) + 1
        for bucket in np.split(order, ends):
            if len(bucket) > 1:
                yield bucket.tolist()


def _digests(texts: Sequence[str], progress: Callable[[int, int], None]) -> np.ndarray:
    """MinHash values, uint64 [n, BANDS * ROWS_IN_BAND]."""
    import numpy as np
    from rensa import RMinHash

    found = np.zeros((len(texts), BANDS * ROWS_IN_BAND), dtype=np.uint64)
    for begin in range(0, len(texts), CHUNK):
        sets = [sorted(shingles(text)) for text in texts[begin : begin + CHUNK]]
        found[begin : begin + len(sets)] = RMinHash.digests_from_token_sets(sets, found.shape[1], SEED)
        progress(begin + len(sets), 2 * len(texts))
    return found


def groups(size: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The group of each of `size` items when pairs are joined transitively; a group is named by its smallest member."""
    parent = list(range(size))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs:
        left, right = find(a), find(b)
        if left != right:
            parent[max(left, right)] = min(left, right)
    return [find(i) for i in range(size)]
