"""Near-equal texts: planted copies are found, unrelated ones are not, and what is found does not depend on bucket sizes."""

from __future__ import annotations

import random

import pytest

from attune.core.similar import Groups, jaccard, shingles, similar_across, similar_pairs

TEXT = "amber basket candle drawer engine feather garden hammer island jacket kettle ladder marble needle orange pencil quartz ribbon saddle timber umbrella velvet window yellow zipper"
WORDS = TEXT.split()


def texts(n: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=18)) for _ in range(n)]


def planted(n: int) -> tuple[list[str], list[tuple[int, int]]]:
    """n texts and n copies with one word changed; the true pairs at or above 0.8."""
    plain = texts(n, 1)
    draw = random.Random(2)
    copies = []
    for text in plain:
        words = text.split()
        words[draw.randrange(len(words))] = draw.choice(WORDS)
        copies.append(" ".join(words))
    every = plain + copies
    return every, [(i, n + i) for i in range(n) if jaccard(shingles(every[i]), shingles(every[n + i])) >= 0.8]


def test_planted_copies_are_found_and_nothing_else():
    every, true = planted(300)
    assert len(true) > 200
    found = {(i, j) for i, j, _ in similar_pairs(every, 0.8)}
    assert len(found & set(true)) >= 0.99 * len(true)
    assert all(jaccard(shingles(every[i]), shingles(every[j])) >= 0.8 for i, j in found)


def test_across_finds_each_higher_ranked_copy_once():
    every, true = planted(300)
    rank = [0] * 300 + [1] * 300
    found = similar_across(every, rank, 0.8)
    assert len({j for _, j, _ in found}) == len(found) >= 0.99 * len(true)
    assert all(rank[i] < rank[j] for i, j, _ in found)
    assert similar_across(every, [0] * 600, 0.8) == []


def test_a_template_of_many_rows_is_one_group():
    rows = [f"please send the monthly statement of my savings account to the usual address, thank you, number {i}" for i in range(400)]
    pairs = similar_pairs([*rows, *texts(100, 3)], 0.8)
    groups = Groups(500, ((i, j) for i, j, _ in pairs))
    assert len({groups.of(i) for i in range(400)}) == 1
    assert len(pairs) == 399


def test_short_empty_and_equal_texts():
    assert similar_pairs([], 0.8) == []
    assert similar_pairs(["a"], 0.8) == []
    assert [(i, j) for i, j, _ in similar_pairs(["Yes", "yes!", "no", ":)", ":("], 0.8)] == [(0, 1)]


def test_order_does_not_change_the_groups():
    every, _ = planted(100)
    order = list(range(200))
    random.Random(5).shuffle(order)
    first = Groups(200, ((i, j) for i, j, _ in similar_pairs(every, 0.8)))
    other = Groups(200, ((i, j) for i, j, _ in similar_pairs([every[i] for i in order], 0.8)))
    place = {i: p for p, i in enumerate(order)}
    assert all((first.of(i) == first.of(j)) == (other.of(place[i]) == other.of(place[j])) for i in range(0, 200, 7) for j in range(200))


INSTRUCTION = "You answer for a bicycle workshop in one or two friendly sentences, you promise no dates, you invent no prices, and you name the opening hours where they help the customer. " * 3


@pytest.mark.parametrize("share", [1, 2])
@pytest.mark.parametrize("behind", [False, True])
def test_an_instruction_makes_no_two_texts_alike(share: int, behind: bool):
    plain, true = planted(100)
    every = [(f"{text} {INSTRUCTION}" if behind else INSTRUCTION + text) if i % share == 0 else text for i, text in enumerate(plain)]
    found = {(i, j) for i, j, _ in similar_pairs(every, 0.8)}
    assert len(found & set(true)) >= 0.9 * len(true)
    assert all(jaccard(shingles(plain[i]), shingles(plain[j])) >= 0.75 for i, j in found)
    across = similar_across(every, [0] * 100 + [1] * 100, 0.8)
    assert 0.9 * len(true) <= len(across) <= 1.1 * len(true)


def test_many_copies_of_one_text_are_one_group():
    """A wrong word here and there in each copy; none of them is an instruction that others follow."""
    draw = random.Random(4)
    copies = []
    for _ in range(30):
        words = TEXT.split()
        words[draw.randrange(len(words))] = draw.choice(["pump", "wheel", "brake", "chain"])
        copies.append(" ".join(words))
    groups = Groups(130, ((i, j) for i, j, _ in similar_pairs([*copies, *texts(100, 6)], 0.8)))
    assert len({groups.of(i) for i in range(30)}) == 1
