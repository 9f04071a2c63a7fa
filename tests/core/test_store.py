"""The content store: equal content once, nothing torn, no way out of its folder."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from attune.core.commit import verify
from attune.core.errors import IntegrityError, MachineError
from attune.core.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def one(folder: Path) -> None:
    (folder / "a.txt").write_text("content")


def test_a_key_is_the_content(store):
    key = store.put("thing", one)
    folder = store.path(key)
    assert (folder / "a.txt").read_text() == "content"
    assert key == f"thing/{verify(folder)[:24]}"
    assert store.has(key)


def test_equal_content_is_kept_once(store):
    key = store.put("thing", one)
    written = (store.path(key) / "a.txt").stat().st_mtime_ns
    assert store.put("thing", one) == key
    assert (store.path(key) / "a.txt").stat().st_mtime_ns == written
    assert len(list((store.root / "thing").iterdir())) == 1
    assert store.put("thing", lambda folder: (folder / "a.txt").write_text("other")) != key


def test_a_fill_that_fails_leaves_nothing(store):
    def broken(folder: Path) -> None:
        one(folder)
        raise RuntimeError("between two files")

    with pytest.raises(RuntimeError, match="between"):
        store.put("thing", broken)
    assert list((store.root / "thing").iterdir()) == []


def test_a_disk_error_while_filling_is_told(store):
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(MachineError, match="No space left"):
        store.put("thing", full)
    assert list((store.root / "thing").iterdir()) == []


def test_damage_is_noticed_and_put_mends_it(store):
    key = store.put("thing", one)
    (store.root / key / "a.txt").write_text("c0ntent")
    assert not store.has(key)
    with pytest.raises(IntegrityError, match=r"a\.txt"):
        store.path(key)
    assert store.put("thing", one) == key
    assert store.has(key)


def test_a_folder_under_another_name_is_refused(store):
    key = store.put("thing", one)
    (store.root / key).rename(store.root / "thing" / ("0" * 24))
    with pytest.raises(IntegrityError, match="what its name says"):
        store.path("thing/" + "0" * 24)
    (store.root / "thing" / ("0" * 24)).rename(store.root / "thing" / key.split("/")[1][:3])
    assert not store.has("thing/" + key.split("/")[1][:3])  # a beginning of the digest is not the digest


@pytest.mark.parametrize("key", ["", ".", "..", "../outside", "thing/../../outside", "/etc", "thing", "thing/", "thing/nothing", "thing/\x00", "~", "thing/link"])
def test_keys_do_not_lead_out(store, tmp_path, key):
    store.put("thing", one)
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.root / "thing" / "link").symlink_to(outside)
    assert not store.has(key)
    with pytest.raises(IntegrityError):
        store.path(key)


def test_many_writers_of_the_same_content_agree(store):
    barrier = threading.Barrier(8)
    keys: list[object] = []

    def write() -> None:
        barrier.wait()
        for number in range(10):
            try:
                keys.append(store.put("thing", lambda folder, number=number: (folder / "a.txt").write_text(str(number))))
            except Exception as error:
                keys.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [key for key in keys if isinstance(key, Exception)] == []
    assert len(set(keys)) == 10
    assert all(store.has(str(key)) for key in keys)
    assert len(list((store.root / "thing").iterdir())) == 10
