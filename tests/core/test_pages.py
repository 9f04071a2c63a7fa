"""Large tensors ask for large pages where there are any, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from attune.core import pages


@pytest.mark.skipif(not pages.STATE.is_file() or "[never]" in pages.STATE.read_text(), reason="this system has no large pages")
@pytest.mark.parametrize(("wanted", "large"), [(None, True), ("0", False)])
def test_large_tensors_begin_at_a_page_where_they_ask_for_large_ones(wanted, large):
    environment = {name: value for name, value in os.environ.items() if name != pages.VARIABLE} | ({} if wanted is None else {pages.VARIABLE: wanted})
    asked = "import attune, torch; print(sum(torch.empty(3_000_000 + 5_000 * i).data_ptr() % 4096 for i in range(4)))"
    said = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True, timeout=120).stdout
    assert (int(said) == 0) is large


@pytest.mark.parametrize(
    ("wanted", "state", "then", "said"),
    [
        (None, "always [madvise] never\n", "1", "large ones are asked for, for tensors of 2 MB and more"),
        (None, "[always] madvise never\n", "1", "large ones are asked for, for tensors of 2 MB and more"),
        (None, "always madvise [never]\n", None, "as the system gives them"),
        (None, None, None, "as the system gives them"),
        ("0", "always [madvise] never\n", "0", "as the system gives them (THP_MEM_ALLOC_ENABLE=0)"),
    ],
)
def test_they_are_asked_for_where_there_are_any_and_the_record_says_so(monkeypatch, tmp_path, wanted, state, then, said):
    monkeypatch.setenv(pages.VARIABLE, "1")  # what monkeypatch puts back at the end
    monkeypatch.delenv(pages.VARIABLE)
    if wanted is not None:
        monkeypatch.setenv(pages.VARIABLE, wanted)
    monkeypatch.setattr(pages, "STATE", tmp_path / "enabled")
    if state is not None:
        pages.STATE.write_text(state)
    pages.apply()
    assert os.environ.get(pages.VARIABLE) == then
    assert pages.words() == said
