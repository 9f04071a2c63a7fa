"""How much memory is left, and how much was held."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest

from attune.core import memory
from attune.core.specialist import by_length


def group(folder, current, stat, most="1000000"):
    for name, text in (("memory.max", most), ("memory.current", current), ("memory.stat", stat)):
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(("stat", "free"), [("anon 100\ninactive_file 600000\n", 900_000), ("anon 700000\ninactive_file 0\n", 300_000), ("", 300_000)])
def test_what_files_left_in_a_groups_cache_is_free_and_programs_memory_is_not(tmp_path, stat, free):
    assert memory._free_in_group(group(tmp_path, "700000", stat)) == free


@pytest.mark.parametrize("most", ["max", ""])
def test_a_group_without_a_limit_limits_nothing(tmp_path, most):
    assert memory._free_in_group(group(tmp_path, "700000", "", most)) == sys.maxsize
    assert memory._free_in_group(tmp_path / "none") == sys.maxsize


def test_batches_of_similar_size_begin_with_the_longest():
    """What comes later fits into the memory that the first batch left behind."""
    sizes = [(37 * i) % 101 for i in range(150)]
    batches = list(by_length(sizes, 64))
    assert sorted(i for batch in batches for i in batch) == list(range(150))
    longest = [max(sizes[i] for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert all(max(sizes[i] for i in later) <= min(sizes[i] for i in batch) for batch, later in pairwise(batches))
    assert list(by_length([], 64)) == []
