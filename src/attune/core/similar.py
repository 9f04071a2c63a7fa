"""Which texts are nearly the same: MinHash finds the candidates, the exact Jaccard similarity of their shingles decides.

What many rows begin or end with (an instruction) makes no two of them alike: `told_apart` leaves it out, and both the rests and the whole texts must be similar.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from attune.core.text import AT_MOST, normalise

if TYPE_CHECKING:
    import numpy as np

    from attune.core.contracts import Row, Task

Progress = Callable[[int, int], None]
Pair = tuple[int, int, float]
"""Two indexes and their similarity in (0, 1]."""

BANDS, ROWS_IN_BAND = 25, 5
"""A pair of Jaccard similarity s becomes a candidate with probability 1 - (1 - s^5)^25: above 0.9999 at 0.8 (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4)."""
SEED = 42
CHARACTERS = 4
CHUNK = 2000
LARGE_BUCKET = 50
"""In a larger bucket a text is compared with the first of each group only, so that a template of thousands does not cost a square."""
MANY, SHARE = 8, 0.01
"""An instruction is followed by at least so many different words, and by this share of all texts; copies of one text differ here and there, not all at one place."""
MOST, LEAST = 0.75, 10
"""Share of a text, and words: texts that have less in common are alike only where their rests are too, or they are short."""
FIELD = 3
"""Fewer words than this with a number among them are a field of a form, not a text of their own."""
_NO_WORD = re.compile(r"[\W_]+")


def shingles(text: str) -> frozenset[str]:
    """All runs of `CHARACTERS` characters, without punctuation where there are words, with a space at both ends; a shorter text is one shingle."""
    plain = normalise(text[:AT_MOST])
    plain = f" {_NO_WORD.sub(' ', plain).strip() or plain} "
    return frozenset(plain[i : i + CHARACTERS] for i in range(max(1, len(plain) - CHARACTERS + 1)))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Size of the intersection over size of the union, in [0, 1]; sets of shingles are never empty."""
    common = len(left & right)
    return common / (len(left) + len(right) - common)


def questions(task: Task, rows: Sequence[Row]) -> list[str]:
    """What tells rows apart: their text; where many rows ask the same, with what stands around it (`Task.context`)."""
    texts = [task.text(row) for row in rows]
    forms = [normalise(text[:AT_MOST]) for text in texts]
    asked = Counter(forms)
    many = _many(len(texts))
    around = [task.context(row) if asked[form] >= many else "" for form, row in zip(forms, rows, strict=True)]
    return [f"{before}\n{text}" if before else text for before, text in zip(around, texts, strict=True)]


def told_apart(forms: Sequence[str]) -> list[str]:
    """Normalised texts without the words that many of them begin and end with, where these are most of a text (`MOST`, `LEAST`)."""
    different = sorted(set(forms))
    begins, ends = _instructions(different), _instructions(sorted(form[::-1] for form in different))
    found: dict[str, str] = {}
    for form in different:
        begin = _led(form, begins)
        rest = form[begin : max(begin, len(form) - _led(form[::-1], ends))].strip()
        words = len(rest.split())
        field = words < FIELD and any(letter.isdigit() for letter in rest)
        short = len(form) - len(rest) < MOST * len(form) or len(form.split()) - words < LEAST
        found[form] = form if not rest or field or short else rest
    return [found[form] for form in forms]


def _many(texts: int) -> int:
    return max(MANY, math.ceil(SHARE * texts))


def _instructions(forms: Sequence[str]) -> list[str]:
    """What many different words follow, longest first. In sorted order each of these words but the first begins where two neighbours part."""
    parting: Counter[str] = Counter()
    for left, right in pairwise(forms):
        low, high = 0, min(len(left), len(right))
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if left[:middle] == right[:middle] else (low, middle - 1)
        whole = all(form[low : low + 1] in ("", " ") for form in (left, right))
        parting[left[: low if whole else max(left.rfind(" ", 0, low), 0)]] += 1
    least = _many(len(forms)) - 1
    return sorted((led for led, number in parting.items() if led and number >= least), key=len, reverse=True)


def _led(form: str, leads: Sequence[str]) -> int:
    """Length of the longest of `leads` with which a text begins."""
    return next((len(lead) for lead in leads if form.startswith(lead) and form[len(lead) : len(lead) + 1] in ("", " ")), 0)


class Groups:
    """Items joined pair by pair; a group is named by its smallest member."""

    def __init__(self, size: int, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self.parent = list(range(size))
        for a, b in pairs:
            self.join(a, b)

    def of(self, i: int) -> int:
        """The name of the group of item `i`."""
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def join(self, a: int, b: int) -> bool:
        """Join two items' groups; False when they were one already."""
        left, right = self.of(a), self.of(b)
        self.parent[max(left, right)] = min(left, right)
        return left != right


def similar_pairs(texts: Sequence[str], threshold: float, progress: Progress | None = None) -> list[Pair]:
    """Pairs (i, j, similarity), i < j, that join every text to its near-equals, directly or through others: one pair less than texts per group.

    Args:
        texts: what is compared.
        threshold: smallest Jaccard similarity of character shingles, in [0.7, 1]; below, MinHash would miss pairs.
        progress: told (done, total).
    """
    forms = [normalise(text[:AT_MOST]) for text in texts]
    same, rests = _same(forms), told_apart(forms)
    joined = Groups(len(texts))
    pairs: list[Pair] = [(copies[0], other, 1.0) for copies in same for other in copies[1:] if joined.join(copies[0], other)]
    compare = _Comparison(forms, rests, threshold)
    for bucket in _buckets(rests, [copies[0] for copies in same], progress):
        firsts: dict[int, int] = {}
        for place, j in enumerate(bucket):
            for i in list(firsts.values()) if len(bucket) > LARGE_BUCKET else bucket[:place]:
                similarity = 0.0 if joined.of(i) == joined.of(j) else compare(i, j)
                if similarity:
                    joined.join(i, j)
                    pairs.append((i, j, similarity))
            firsts.setdefault(joined.of(j), j)
    return sorted(pairs)


def similar_across(texts: Sequence[str], rank: Sequence[int], threshold: float, progress: Progress | None = None) -> list[Pair]:
    """For every text that has a near-equal of a lower rank: (that one, the text, similarity), once per text; arguments as `similar_pairs`."""
    forms = [normalise(text[:AT_MOST]) for text in texts]
    same, rests = _same(list(zip(rank, forms, strict=True))), told_apart(forms)
    copies_of = {copies[0]: copies for copies in same}
    found: dict[int, tuple[int, float]] = {}
    compare = _Comparison(forms, rests, threshold)
    for bucket in _buckets(rests, list(copies_of), progress):
        for j in bucket:
            if j in found:
                continue
            for i in bucket:
                similarity = compare(min(i, j), max(i, j)) if rank[i] < rank[j] else 0.0
                if similarity:
                    found[j] = (i, similarity)
                    break
    return sorted((i, copy, similarity) for j, (i, similarity) in found.items() for copy in copies_of[j])


def _same(keys: Sequence[object]) -> list[list[int]]:
    """Indexes of equal keys, in order of appearance."""
    found: dict[object, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        found[key].append(i)
    return list(found.values())


class _Comparison:
    """Similarity of two texts where that of their rests and of the whole texts reaches the threshold, else 0; no pair is computed twice."""

    def __init__(self, texts: Sequence[str], rests: Sequence[str], threshold: float) -> None:
        self.threshold = threshold
        self.apart: set[tuple[int, int]] = set()
        self.texts, self.rests = texts, rests
        self.shingles_of = lru_cache(maxsize=CHUNK)(shingles)

    def __call__(self, i: int, j: int) -> float:
        if (i, j) in self.apart:
            return 0.0
        similarity = self._of(self.rests[i], self.rests[j])
        if similarity and (self.texts[i] != self.rests[i] or self.texts[j] != self.rests[j]):
            similarity = min(similarity, self._of(self.texts[i], self.texts[j]))
        if not similarity:
            self.apart.add((i, j))
        return similarity

    def _of(self, one: str, other: str) -> float:
        left, right = self.shingles_of(one), self.shingles_of(other)
        if min(len(left), len(right)) < self.threshold * max(len(left), len(right)):
            return 0.0
        similarity = jaccard(left, right)
        return similarity if similarity >= self.threshold else 0.0


def _buckets(texts: Sequence[str], members: Sequence[int], progress: Progress | None) -> Iterator[list[int]]:
    """Ascending groups of `members` whose texts agree in all rows of a band, band after band."""
    import numpy as np

    told = progress or (lambda done, total: None)
    digests = _digests([texts[i] for i in members], told)
    names_of = np.array(members)
    mixer = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5, 0x85EBCA77C2B2AE63], dtype=np.uint64)
    for band in range(BANDS if len(members) > 1 else 0):
        told(len(members) + band * len(members) // BANDS, 2 * len(members))
        part = digests[:, band * ROWS_IN_BAND : (band + 1) * ROWS_IN_BAND]
        keys = (part * mixer).sum(axis=1, dtype=np.uint64)  # two bands with one key only cost a comparison
        order = np.argsort(keys, kind="stable")
        edges = np.concatenate(([0], np.flatnonzero(np.diff(keys[order])) + 1, [len(order)]))
        for run in np.flatnonzero(np.diff(edges) > 1):
            yield names_of[order[edges[run] : edges[run + 1]]].tolist()


def _digests(texts: Sequence[str], progress: Progress) -> np.ndarray:
    """MinHash values, uint64 [n, BANDS * ROWS_IN_BAND]."""
    import numpy as np
    from rensa import RMinHash

    found = np.zeros((len(texts), BANDS * ROWS_IN_BAND), dtype=np.uint64)
    for begin in range(0, len(texts), CHUNK):
        sets = [sorted(shingles(text)) for text in texts[begin : begin + CHUNK]]
        found[begin : begin + len(sets)] = RMinHash.digests_from_token_sets(sets, found.shape[1], SEED)
        progress(begin + len(sets), 2 * len(texts))
    return found
