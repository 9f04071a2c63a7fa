"""Waiting threads spin on a quiet machine only, and never against the user's word."""

from __future__ import annotations

import pytest

from attune.core import waiting


@pytest.fixture
def load(tmp_path, monkeypatch):
    for name in waiting.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(waiting, "LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(waiting.os, "cpu_count", lambda: 4)
    yield lambda running: (tmp_path / "loadavg").write_text(f"0.10 0.20 0.30 {running}/345 4711\n")
    waiting.os.environ.pop("GOMP_SPINCOUNT", None)


@pytest.mark.parametrize(("running", "quiet"), [(1, True), (2, True), (3, False), (9, False)])
def test_other_programs_make_threads_sleep_soon(load, running, quiet):
    load(running)
    waiting.apply()
    assert ("GOMP_SPINCOUNT" not in waiting.os.environ) == quiet
    assert ("spin" in waiting.words()) == quiet


def test_where_nothing_is_known_they_sleep(load):
    assert not waiting.quiet()
    waiting.apply()
    assert waiting.words() == "GOMP_SPINCOUNT=1000"


def test_the_users_word_holds(load, monkeypatch):
    load(9)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    waiting.apply()
    assert waiting.words() == "OMP_WAIT_POLICY=ACTIVE"
