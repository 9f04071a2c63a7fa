"""What is kept to be used again: within its limit, oldest first, never what is in use, and never a reason for a run to fail."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from attune.core.errors import MachineError, Problems
from attune.core.events import Events
from attune.core.specialist import open_bundle
from attune.core.tunable import TunableModel
from attune.stages import finetune
from attune.stages.finetune import cache as cache_module
from attune.stages.finetune.cache import Cache, NoRoom, size_of

from .conftest import make_dataset, make_rows
from .test_engine import learner_of, trained

SIZE = 10_000
MANIFEST = 1_000


def fill(folder):
    (folder / "content").write_bytes(bytes(SIZE))


def kept(cache: Cache, name: str, *, at: float | None = None, make=fill):
    """Keep something and be done with it; `at` sets the time of the use."""
    folder, used, there = cache.keep(name, SIZE, make)
    if at is not None:
        os.utime(used.fileno(), (at, at))
    used.close()
    return folder, there


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.fixture
def heard():
    return []


@pytest.fixture
def small(tmp_path, heard):
    """Room for three."""
    return Cache(tmp_path / "cache", 3 * (SIZE + MANIFEST), Events(listeners=[heard.append]))


def test_what_was_used_longest_ago_goes_first_and_it_is_told_once(small, heard):
    for number, name in enumerate("abc"):
        kept(small, name, at=1000 + number)
    assert kept(small, "a", at=2000)[1]  # used again: it is the newest now
    assert not heard
    kept(small, "d")
    assert names(small.folder) == ["a", "c", "d"]
    [said] = heard
    assert (said["kind"], said["deleted"]) == ("note", 1)
    assert "1 folder not used for the longest time deleted (0 MB), to stay within" in said["message"]
    assert size_of(small.folder)[1] == 3


def test_below_the_limit_nothing_goes(small, heard):
    """The clean twin."""
    for name in "abc":
        kept(small, name)
    assert names(small.folder) == ["a", "b", "c"]
    assert not heard


def test_what_another_process_uses_stays(small):
    for number, name in enumerate("abc"):
        kept(small, name, at=1000 + number)
    code = "import sys, fcntl; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_SH); print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code, str(small.folder / ".a.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        kept(small, "d")
        assert names(small.folder) == ["a", "c", "d"]  # a was the oldest
    finally:
        other.communicate(timeout=30)
    kept(small, "e", at=3000)
    assert "a" not in names(small.folder)


def test_when_all_is_in_use_nothing_is_deleted_and_the_reason_is_given(small):
    held = [small.keep(name, SIZE, fill)[1] for name in "abc"]
    with pytest.raises(NoRoom, match="in use by other runs"):
        small.keep("d", SIZE, fill)
    assert names(small.folder) == ["a", "b", "c"]
    for one in held:
        one.close()


def test_what_is_larger_than_the_limit_or_the_disk_deletes_nothing_in_vain(small, monkeypatch):
    kept(small, "a")
    with pytest.raises(NoRoom, match="the limit is"):
        small.keep("b", 4 * SIZE, fill)
    assert names(small.folder) == ["a"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(NoRoom, match="the disk has"):
        small.keep("b", SIZE, fill)
    assert names(small.folder) == ["a"]


def test_for_room_on_the_disk_older_folders_go(small, monkeypatch):
    for number, name in enumerate("ab"):
        kept(small, name, at=1000 + number)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=cache_module.SPARED + 2 * SIZE + SIZE // 2 - len(names(small.folder)) * SIZE))
    kept(small, "c")
    assert names(small.folder) == ["b", "c"]


@pytest.mark.parametrize(("number", "wanted"), [(errno.ENOSPC, NoRoom), (errno.EDQUOT, NoRoom), (errno.EIO, MachineError)])
def test_a_disk_that_becomes_full_is_a_reason_and_a_broken_one_is_an_error(small, number, wanted):
    def fail(folder):
        raise OSError(number, os.strerror(number))

    with pytest.raises(wanted):
        small.keep("a", SIZE, fail)
    assert names(small.folder) == []
    assert not list(small.folder.glob(".t*"))


def test_what_killed_runs_left_half_made_goes_and_what_is_being_made_stays(small):
    kept(small, "c")
    for name in "abc":
        (small.folder / f".tmp-{name}-0123abcd").mkdir()
    with (small.folder / ".b.making").open("ab") as maker:
        fcntl.flock(maker, fcntl.LOCK_EX)
        kept(small, "d")
    assert [path.name for path in small.folder.glob(".tmp-*")] == [".tmp-b-0123abcd"]


def test_two_at_once_make_it_once(small):
    made, go_on = [], threading.Event()

    def slowly(folder):
        made.append(1)
        assert go_on.wait(30)
        fill(folder)

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(kept, small, "a", make=slowly) for _ in range(2)]
        go_on.set()
        assert sorted(one.result(60)[1] for one in both) == [False, True]
    assert made == [1]


def test_the_limit_without_a_setting_follows_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=50e9))
    assert Cache(tmp_path / "cache").limit == 5e9
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=900e9))
    assert Cache(tmp_path / "cache").limit == 20e9


def test_a_run_without_room_computes_the_layers_each_time_and_says_why(tiny_base, tmp_path):
    method = {"name": "lora", "layers": 1}
    without = learner_of(tiny_base, method, cache=tmp_path / "none", cache_gb=0)
    assert "are computed in every step: they would take" in without.chosen["frozen layers"]
    assert not (tmp_path / "none").exists()
    with_them = learner_of(tiny_base, method, cache=tmp_path / "some")
    a, b = trained(without), trained(with_them)
    assert max(float((a[name] - b[name]).abs().max()) for name in a if not name.endswith("key.bias")) < 1e-5


def test_a_learner_keeps_its_folder_and_gives_it_back(tiny_base, tmp_path):
    learner = learner_of(tiny_base, {"name": "lora", "layers": 1}, cache=tmp_path)
    [folder] = tmp_path.glob("layers-*")
    assert not cache_module._delete(folder)
    learner.step(0)
    learner.model.computed._in_use.close()
    assert cache_module._delete(folder)
    learner.step(1)  # what is mapped into memory outlives its name


def test_the_record_of_a_run_says_that_nothing_was_kept(recipe_of, workspace):
    recipe = recipe_of({"name": "lora", "layers": 1}, epochs=0.5, cache_gb=0)
    checkpoint = finetune.run(recipe, workspace, make_dataset(workspace, recipe, make_rows(40)), Events(), run="r")
    assert "train.cache_gb" in checkpoint.chosen["frozen layers"]
    assert not (workspace.root / "cache").exists()


def test_a_resume_that_finds_room_learns_the_same_and_says_what_is_true_now(recipe_of, workspace, monkeypatch):
    from attune.stages.finetune.stage import Session

    recipe = recipe_of({"name": "full", "layers": 1}, refit=False)
    dataset = make_dataset(workspace, recipe, make_rows(80))
    whole = finetune.run(recipe, workspace, dataset, Events(), run="whole")
    shutil.rmtree(workspace.root / "cache")
    commit, free = Session._commit, cache_module._free

    def stops(self, at):
        commit(self, at)
        if at >= 6:
            self.saver.wait()
            raise KeyboardInterrupt

    monkeypatch.setattr(cache_module, "_free", lambda folder: 10)
    monkeypatch.setattr(Session, "_commit", stops)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(recipe, workspace, dataset, Events(), run="killed")
    monkeypatch.setattr(cache_module, "_free", free)
    monkeypatch.setattr(Session, "_commit", commit)
    resumed = finetune.run(recipe, workspace, dataset, Events(), run="killed")
    assert "were computed once" in resumed.chosen["frozen layers"]
    a, b = (dict(open_bundle(workspace.store.path(one.store_key)).model.named_parameters()) for one in (whole, resumed))
    assert max(float((a[name] - b[name]).detach().abs().max()) for name in a if not name.endswith("key.bias")) < 1e-5


@pytest.mark.parametrize(("method", "key", "refused"), [("full", "cache_gb", True), ({"name": "full", "layers": 1}, "cache_gb", False), ("head", "head_learning_rate", False)])
def test_a_key_that_has_no_effect_is_left_unread(tiny_base, tmp_path, method, key, refused):
    learner = learner_of(tiny_base, method, cache=tmp_path, **{key: 1.0})
    assert (key in learner.keys.unread()) == refused


def test_features_of_a_frozen_base_are_computed_once_for_all_runs(recipe_of, workspace, monkeypatch):
    """Also where a file on disk was damaged meanwhile; without room they are computed again, and the weights are the same every time."""
    read = []
    features = TunableModel.features
    monkeypatch.setattr(TunableModel, "features", lambda self, tokens: read.append(len(tokens.names)) or features(self, tokens))
    weights, said = [], []

    def head(name, **train):
        recipe = recipe_of("head", epochs=1, refit=False, **train)
        checkpoint = finetune.run(recipe, workspace, make_dataset(workspace, recipe, make_rows(80)), Events(), run=name)
        weights.append(open_bundle(workspace.store.path(checkpoint.store_key)).model.head.weight.detach().clone())
        said.append(checkpoint.chosen["features"])
        read.append(None)

    head("first")
    head("again")
    (kept,) = workspace.root.glob("cache/features-*/features.bin")
    content = bytearray(kept.read_bytes())
    content[100] ^= 4
    kept.write_bytes(bytes(content))
    head("damaged")
    head("without room", cache_gb=0.0)
    first, again, damaged, without = (sum(part) for part in split(read))
    assert first == damaged == without > again + 40
    assert "on disk for later runs" in said[0]
    assert "on disk from an earlier run" in said[1]
    assert "on disk for later runs" in said[2]
    assert "kept in memory: they would take" in said[3]
    assert all(torch.equal(weights[0], one) for one in weights[1:])


def split(numbers):
    """The parts between Nones."""
    parts = [[]]
    for one in numbers:
        if one is None:
            parts.append([])
        else:
            parts[-1].append(one)
    return parts[:-1]


def test_a_rate_of_a_head_that_is_not_there_is_refused(recipe_of, workspace):
    recipe = recipe_of(task="embedding", objective="contrastive", epochs=0.5, head_learning_rate=1e-3)
    pairs = [{"row_id": row["row_id"], "place": row["place"], "anchor": row["text"], "positive": f"{row['label']} {i}"} for i, row in enumerate(make_rows(60))]
    with pytest.raises(Problems, match=r"train\.head_learning_rate"):
        finetune.run(recipe, workspace, make_dataset(workspace, recipe, pairs), Events(), run="r")


def test_doctor_shows_its_size(small):
    from attune.cli.health import _cache

    assert _cache(small.folder).found.startswith("empty; kept up to ")
    kept(small, "a")
    assert "in 1 folder; kept up to " in _cache(small.folder).found
