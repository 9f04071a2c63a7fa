"""The one commit point: what is whole exists, everything else does not, whatever happened to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attune.core import commit
from attune.core.commit import MANIFEST, committed_folder, is_valid, manifest_of, seal, verify, write_json, write_text
from attune.core.errors import IntegrityError, MachineError


def fill(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "a.bin").write_bytes(bytes(range(256)) * 4)
    (folder / "sub" / "b.txt").write_text("ä\n")
    (folder / "empty").write_bytes(b"")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "target"
    with committed_folder(target, {"why": "test"}) as temporary:
        fill(temporary)
    return target


def test_a_committed_folder_is_whole(folder):
    assert len(verify(folder)) == 64
    assert is_valid(folder)
    assert manifest_of(folder)["facts"] == {"why": "test"}
    assert sorted(manifest_of(folder)["files"]) == ["a.bin", "empty", "sub/b.txt"]
    assert [p.name for p in folder.parent.iterdir()] == ["target"]  # nothing temporary is left


def test_equal_content_has_an_equal_digest_and_other_content_another(tmp_path, folder):
    with committed_folder(tmp_path / "again", {"other": "facts"}) as temporary:
        fill(temporary)
    assert verify(tmp_path / "again") == verify(folder)
    with committed_folder(tmp_path / "renamed") as temporary:
        fill(temporary)
        (temporary / "a.bin").rename(temporary / "c.bin")
    assert verify(tmp_path / "renamed") != verify(folder)


@pytest.mark.parametrize("position", [0, 1, 511, 1023])
def test_a_flipped_bit_is_noticed(folder, position):
    body = bytearray((folder / "a.bin").read_bytes())
    body[position] ^= 4
    (folder / "a.bin").write_bytes(body)
    with pytest.raises(IntegrityError, match=r"a\.bin"):
        verify(folder)


def _missing(folder: Path) -> None:
    (folder / "sub" / "b.txt").unlink()


def _added(folder: Path) -> None:
    (folder / "sub" / "new.txt").write_text("")


def _longer(folder: Path) -> None:
    with (folder / "empty").open("ab") as stream:
        stream.write(b"\0")


def _shorter(folder: Path) -> None:
    os.truncate(folder / "a.bin", 1023)


def _exchanged(folder: Path) -> None:
    body = (folder / "a.bin").read_bytes()
    (folder / "a.bin").unlink()
    (folder / "elsewhere").mkdir()
    (folder.parent / "outside").write_bytes(body)
    (folder / "a.bin").symlink_to(folder.parent / "outside")


def _linked_in(folder: Path) -> None:
    (folder / "link").symlink_to("/etc")


def _manifest_gone(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def _manifest_torn(folder: Path) -> None:
    os.truncate(folder / MANIFEST, 40)


def _manifest_of_other_files(folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"mine")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["a.bin"] = {"size": 4, "sha256": commit.sha256_file(folder / "a.bin")}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _manifest_no_mapping(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"files": []}')


def _file_became_folder(folder: Path) -> None:
    (folder / "empty").unlink()
    (folder / "empty").mkdir()


FAULTS = [_missing, _added, _longer, _shorter, _exchanged, _linked_in, _manifest_gone, _manifest_torn, _manifest_of_other_files, _manifest_no_mapping, _file_became_folder]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_torn_folder_does_not_exist_and_is_made_again(folder, fault):
    fault(folder)
    with pytest.raises(IntegrityError):
        verify(folder)
    assert not is_valid(folder)
    with committed_folder(folder) as temporary:
        fill(temporary)
    assert is_valid(folder)
    assert not [p for p in folder.parent.iterdir() if p.name.startswith((".tmp", ".torn"))]


def test_a_whole_folder_is_left_as_it_is(folder):
    with committed_folder(folder) as temporary:
        (temporary / "other").write_text("x")
    assert sorted(manifest_of(folder)["files"]) == ["a.bin", "empty", "sub/b.txt"]


def test_an_error_between_two_files_leaves_nothing(tmp_path):
    def broken() -> None:
        with committed_folder(tmp_path / "target") as temporary:
            (temporary / "first").write_text("x")
            raise ValueError("second")

    with pytest.raises(ValueError, match="second"):
        broken()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commit, "_fsync", full)
    with pytest.raises(MachineError, match="No space left"):
        with committed_folder(tmp_path / "target") as temporary:
            fill(temporary)
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import os, signal, sys
from pathlib import Path
from attune.core import commit
target, stop_at = Path(sys.argv[1]), int(sys.argv[2])
calls = 0
real = {name: getattr(os, name) for name in ("fsync", "rename")}
def counted(name):
    def call(*arguments):
        global calls
        calls += 1
        if calls == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real[name](*arguments)
    return call
os.fsync, os.rename = counted("fsync"), counted("rename")
with commit.committed_folder(target) as folder:
    for number in range(3):
        (folder / f"file-{number}").write_text("x" * 1000)
print(calls)
"""


def test_a_kill_at_any_moment_leaves_all_or_nothing(tmp_path):
    def attempt(stop_at: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / f"target-{stop_at}"), str(stop_at)], capture_output=True, text=True, check=False)

    calls = int(attempt(0).stdout)
    assert calls >= 6  # three files, the manifest, two folders at least, the rename
    whole = []
    for stop_at in range(1, calls + 1):
        assert attempt(stop_at).returncode == -9
        target = tmp_path / f"target-{stop_at}"
        assert is_valid(target) == target.exists()
        whole.append(target.exists())
    assert whole == sorted(whole)  # nothing before the rename, everything after it
    assert whole[0] is False


def test_texts_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "facts.json"
    write_json(path, {"b": 1, "a": "ü"})
    assert json.loads(path.read_text()) == {"a": "ü", "b": 1}
    monkeypatch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        write_text(path, "half")
    assert json.loads(path.read_text()) == {"a": "ü", "b": 1}
    assert [p.name for p in path.parent.iterdir()] == ["facts.json"]


def test_sealing_again_after_a_change_is_a_new_digest(tmp_path):
    fill(tmp_path)
    first = seal(tmp_path)
    (tmp_path / "more").write_text("x")
    assert seal(tmp_path) != first
    verify(tmp_path)


def manifest_bits_that_pass(folder: Path) -> list[int]:
    """Bits of the manifest whose flip nobody notices."""
    manifest = folder / MANIFEST
    whole = manifest.read_bytes()
    passed = []
    for place in range(8 * len(whole)):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        manifest.write_bytes(data)
        passed += [place] * is_valid(folder)
    manifest.write_bytes(whole)
    return passed


def test_every_bit_of_the_manifest_counts(folder):
    assert manifest_bits_that_pass(folder) == []


def test_without_its_own_hash_a_manifest_can_be_damaged_unnoticed(folder, monkeypatch):
    """The must-fail twin: the hash of the manifest is what notices a flip in its facts."""
    monkeypatch.setattr(commit, "_check", lambda manifest: manifest.get("check"))
    assert manifest_bits_that_pass(folder) != []


def test_a_manifest_from_before_it_had_a_hash_of_itself_is_still_valid(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["check"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert is_valid(folder)
    (folder / MANIFEST).write_text(json.dumps({**manifest, "chfck": "0"}))
    assert not is_valid(folder)


def test_a_rename_that_may_not_be_durable_is_made_so_by_the_next_attempt(tmp_path, monkeypatch):
    synced = []
    real = commit._fsync
    monkeypatch.setattr(commit, "_fsync", lambda path: (synced.append(path), real(path))[1])
    for _ in range(2):
        synced.clear()
        with committed_folder(tmp_path / "target") as temporary:
            (temporary / "a").write_text("a")
        assert synced[-1] == tmp_path


def test_new_folders_are_made_durable(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(commit, "_fsync", synced.append)
    commit.make_folder(tmp_path / "a" / "b")
    assert set(synced) == {tmp_path, tmp_path / "a"}
    synced.clear()
    commit.make_folder(tmp_path / "a" / "b")
    assert synced == []


def test_a_checked_file_notices_every_flipped_bit(tmp_path):
    path = tmp_path / "plan.json"
    commit.write_checked(path, {"threads": 2, "why": "so"})
    assert commit.read_checked(path) == {"threads": 2, "why": "so"}
    whole = path.read_bytes()
    for place in range(8 * len(whole)):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        if data.decode("utf-8", "replace").strip() != whole.decode().strip():
            with pytest.raises(IntegrityError, match=r"plan\.json"):
                commit.read_checked(path)
    path.unlink()
    with pytest.raises(IntegrityError):
        commit.read_checked(path)
