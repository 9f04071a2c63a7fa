"""Which texts are nearly the same: MinHash finds the candidates, the exact Jaccard similarity of their shingles decides."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from attune.core.text import normalise

BANDS, ROWS_IN_BAND = 25, 5
"""A pair of Jaccard similarity s becomes a candidate with probability 1 - (1 - s^5)^25: above 0.9999 at 0.8 (Broder 1997; Leskovec, Rajaraman, Ullman, section 3.4)."""
SEED = 42
CHARACTERS = 5
LARGE_BUCKET = 50
"""In a larger bucket every text is compared with the first of its near-equals only, so that templates do not cost a square."""


def shingles(text: str, characters: int = CHARACTERS) -> frozenset[int]:
    """Hashes of all runs of `characters` characters of the normalised text; a shorter text is one shingle."""
    plain = f" {normalise(text)} "
    if len(plain) <= characters:
        return frozenset((zlib.crc32(plain.encode("utf-8", "replace")),))
    return frozenset(hash_of(plain[i : i + characters]) for i in range(len(plain) - characters + 1))


def hash_of(piece: str) -> int:
    """A hash that is the same in every process, unlike `hash`."""
    return zlib.crc32(piece.encode("utf-8", "replace"))


def jaccard(left: frozenset[int], right: frozenset[int]) -> float:
    """Size of the intersection over size of the union, 1 for two empty sets."""
    common = len(left & right)
    union = len(left) + len(right) - common
    return common / union if union else 1.0


def similar_pairs(texts: Sequence[str], threshold: float, progress: Callable[[int, int], None] | None = None) -> list[tuple[int, int, float]]:
    """Pairs (i, j, similarity) with i < j whose similarity is at least `threshold`; enough of them to join every near-equal text to its group.

    Args:
        texts: what is compared, after normalisation.
        threshold: smallest Jaccard similarity of character shingles, in (0, 1].
        progress: called with (done, total).
    """
    from rensa import RMinHash

    sets = [shingles(text) for text in texts]
    by_set: dict[frozenset[int], list[int]] = defaultdict(list)
    for i, one in enumerate(sets):
        by_set[one].append(i)
    pairs = [(members[0], other, 1.0) for members in by_set.values() for other in members[1:]]
    unique = [members[0] for members in by_set.values()]
    digests = RMinHash.digests_from_token_sets([[str(h) for h in sets[i]] for i in unique], BANDS * ROWS_IN_BAND, SEED) if unique else []
    seen: set[tuple[int, int]] = set()
    for band in range(BANDS):
        buckets: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, digest in zip(unique, digests, strict=True):
            buckets[tuple(digest[band * ROWS_IN_BAND : (band + 1) * ROWS_IN_BAND])].append(i)
        for bucket in buckets.values():
            if len(bucket) > 1:
                pairs += _verified(bucket, sets, threshold, seen)
        if progress:
            progress(band + 1, BANDS)
    return sorted(pairs)


def _verified(bucket: list[int], sets: list[frozenset[int]], threshold: float, seen: set[tuple[int, int]]) -> Iterable[tuple[int, int, float]]:
    heads: list[int] = []
    for place, j in enumerate(bucket):
        joined = False
        for i in heads if len(bucket) > LARGE_BUCKET else bucket[:place]:
            left, right = min(i, j), max(i, j)
            small, large = sorted((len(sets[i]), len(sets[j])))
            if small < threshold * large:
                continue
            if (left, right) in seen:
                joined = True
                continue
            similarity = jaccard(sets[i], sets[j])
            if similarity >= threshold:
                seen.add((left, right))
                joined = True
                yield left, right, similarity
        if not joined:
            heads.append(j)


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
