"""Saves in the background, signals, full disks and damaged files: nothing said to be saved is lost, nothing damaged is used."""

from __future__ import annotations

import errno
import shutil
import signal
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from attune.core.commit import MANIFEST, is_valid
from attune.core.errors import DataError, IntegrityError, MachineError, PlugError
from attune.core.events import Events
from attune.stages import finetune
from attune.stages.finetune import checkpoints, saver
from attune.stages.finetune.checkpoints import Checkpoints, DiskFull, write_tensors
from attune.stages.finetune.interrupt import Interrupt
from attune.stages.finetune.saver import Saver

from .conftest import make_dataset, make_rows


def flip(path, place=-1):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def facts(step, best=None):
    return {"step": step, "best": {"step": best} if best is not None else {}}


@pytest.fixture
def heard():
    return []


@pytest.fixture
def kept(tmp_path):
    return Checkpoints(tmp_path / "c")


@pytest.fixture
def slow(kept, monkeypatch):
    """Writes that wait until they are let go."""
    gate = threading.Event()
    write = kept._write
    monkeypatch.setattr(kept, "_write", lambda *given: (gate.wait(20), write(*given)))
    return gate


def saved_after_a_change(kept, events, gate):
    weights = torch.zeros(4)
    with Saver(kept, events, 0) as making:
        making.save(1, {"w": weights}, facts(1))
        weights += 1  # the training goes on
        gate.set()
    return kept.newest()[0]["w"]


def test_a_save_holds_the_moment_it_was_asked_for(kept, heard, slow):
    assert saved_after_a_change(kept, Events(None, [heard.append]), slow).tolist() == [0, 0, 0, 0]


def test_a_save_without_a_copy_would_not(kept, heard, slow, monkeypatch):
    """The must-fail twin of the test above."""
    monkeypatch.setattr(Saver, "_copy", lambda self, kind, tensors: tensors)
    assert saved_after_a_change(kept, Events(None, [heard.append]), slow).tolist() == [1, 1, 1, 1]


def test_training_goes_on_while_a_save_is_written_and_nothing_is_acknowledged_before_its_commit(kept, heard, slow):
    with Saver(kept, Events(None, [heard.append]), 0) as making:
        making.save_best(1, {"w": torch.zeros(2)})
        making.save(1, {"w": torch.zeros(2)}, facts(1, 1))
        making.poll()
        assert heard == []
        assert not list(kept.folder.glob("step-*"))
        slow.set()
        making.save(2, {"w": torch.ones(2)}, facts(2, 1))  # waits for the one in flight: one at a time
        assert is_valid(kept.folder / "step-00000001")
    assert [event["step"] for event in heard if event["message"].endswith("is saved")] == [1, 2]
    assert kept.newest()[1] == facts(2, 1)
    making.tell()
    assert (heard[-1]["saves"], heard[-1]["at_once"]) == (3, 0)


def test_memory_of_copies_is_used_again(kept):
    with Saver(kept, Events(), 0) as making:
        making.save(1, {"w": torch.zeros(2), "x": torch.zeros(3)}, facts(1))
        first = making._buffers["step"]["w"].data_ptr()
        making.save(2, {"w": torch.ones(2), "x": torch.zeros(5)}, facts(2))
        assert making._buffers["step"]["w"].data_ptr() == first
    assert kept.newest()[0]["x"].shape == (5,)


def test_a_large_copy_is_freed_once_it_is_on_the_disk(kept, monkeypatch):
    monkeypatch.setattr(saver, "KEPT", 1000)
    with Saver(kept, Events(), 0) as making:
        for number, size in enumerate((100, 300), 1):
            making.save(number, {"w": torch.zeros(size)}, facts(number))
            making.wait()
            assert bool(making._buffers["step"]) == (size == 100)
    assert kept.newest()[0]["w"].shape == (300,)


def test_without_memory_for_a_copy_the_state_is_written_at_once(kept, monkeypatch):
    monkeypatch.setattr(saver, "available_memory", lambda: 10)
    with Saver(kept, Events(), 0) as making:
        making.save(1, {"w": torch.zeros(100)}, facts(1))
        assert kept.find()[0] == "step-00000001"
        assert (making.saves, making.at_once) == (0, 1)


def test_an_error_of_the_thread_is_raised_where_the_training_is(kept, monkeypatch):
    def broken(*given):
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(checkpoints, "write_tensors", broken)
    making = Saver(kept, Events(), 5)
    making.save_best(1, {"w": torch.zeros(2)})
    making.save(1, {"w": torch.zeros(2)}, facts(1, 1))
    with pytest.raises(MachineError, match="the disk is broken"):
        making.wait()
    assert kept.find() is None, "a checkpoint must not be committed after the weights it refers to have failed"


def test_an_error_on_its_way_out_is_not_replaced_by_one_of_a_save(kept, heard, monkeypatch):
    monkeypatch.setattr(checkpoints, "write_tensors", lambda *given: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))

    def train():
        with Saver(kept, Events(None, [heard.append]), 5) as making:
            making.save(1, {"w": torch.zeros(2)}, facts(1))
            raise DataError("mine")

    with pytest.raises(DataError, match="mine"):
        train()
    assert "was not saved" in heard[-1]["message"]


def free(monkeypatch, *room):
    """The disk's room at each look; the last goes on for ever."""
    left, usage = list(room), shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=left.pop(0) if len(left) > 1 else left[0]))


def test_a_full_disk_pauses_the_run_and_it_goes_on_when_there_is_room(kept, heard, monkeypatch):
    monkeypatch.setattr(saver, "FIRST_LOOK", 0.01)
    free(monkeypatch, 1000, 1000, 10**9)
    with Saver(kept, Events(None, [heard.append]), 1) as making:
        making.save_best(1, {"w": torch.zeros(2)})
        making.save(1, {"w": torch.zeros(2)}, facts(1, 1))
    told = next(event for event in heard if event["kind"] == "warning")
    assert "the run is paused" in told["message"]
    assert f"{8 + checkpoints.SPARE:,} bytes" in told["message"]
    assert str(kept.folder) in told["message"]
    assert "goes on" in next(event["message"] for event in heard if event["kind"] == "note")
    assert kept.newest()[1] == facts(1, 1)


@pytest.mark.parametrize("minutes", [0, 0.0005])
def test_a_disk_that_stays_full_stops_the_run_and_it_can_be_resumed(recipe_of, workspace, monkeypatch, minutes):
    monkeypatch.setattr(saver, "FIRST_LOOK", 0.01)
    recipe = recipe_of(wait_for_disk=minutes)
    dataset = make_dataset(workspace, recipe, make_rows(80))
    whole = finetune.run(recipe, workspace, dataset, Events(), run="whole")
    with monkeypatch.context() as patch:
        free(patch, *[10**12] * 3, 1000)
        with pytest.raises(DiskFull, match="bytes of disk"):
            finetune.run(recipe, workspace, dataset, Events(), run="full")
    notes = []
    again = finetune.run(recipe, workspace, dataset, Events(None, [notes.append]), run="full")
    assert any("resumed" in event["message"] for event in notes)
    assert again.store_key == whole.store_key


def test_a_signal_ends_the_wait_for_room(kept, monkeypatch):
    free(monkeypatch, 1000)
    making = Saver(kept, Events(), 100)
    making.stop = lambda: True
    making.save(1, {"w": torch.zeros(2)}, facts(1))
    with pytest.raises(DiskFull):
        making.wait()


def test_old_checkpoints_go_only_after_the_new_one_is_verified(kept, monkeypatch):
    for step in (1, 2):
        kept.save(step, {"w": torch.zeros(4)}, facts(step))
    commit = checkpoints.committed_folder

    class Rotten:
        """The disk gives back other bytes than were written."""

        def __init__(self, target):
            self.inner, self.target = commit(target), target

        def __enter__(self):
            return self.inner.__enter__()

        def __exit__(self, *given):
            self.inner.__exit__(*given)
            flip(self.target / "state.safetensors")

    monkeypatch.setattr(checkpoints, "committed_folder", Rotten)
    with pytest.raises(MachineError, match="does not give back"):
        kept.save(3, {"w": torch.zeros(4)}, facts(3))
    assert is_valid(kept.folder / "step-00000001")
    assert is_valid(kept.folder / "step-00000002")
    assert kept.find()[0] == "step-00000002"


def send(number, at, times=1):
    """Events that send signals to this process at a step."""

    def listen(event):
        if (event["kind"], event["message"]) == ("progress", "train") and event["done"] == at:
            for _ in range(times):
                signal.raise_signal(number)

    return listen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_commits_and_then_acts(recipe_of, workspace, number):
    class Ended(Exception):
        pass

    def own(number, frame):
        raise Ended

    recipe = recipe_of(checkpoint_every=100)
    dataset = make_dataset(workspace, recipe, make_rows(80))
    whole = finetune.run(recipe, workspace, dataset, Events(), run="whole")
    heard = []
    before = signal.signal(number, own)
    try:
        with pytest.raises(Ended):
            finetune.run(recipe, workspace, dataset, Events(None, [send(number, 3), heard.append]), run="r")
        assert signal.getsignal(number) is own
        told = heard[-1]["message"]
        assert "step 3" in told
        assert "the same command goes on" in told
        folder = workspace.run_folder("r") / "checkpoints"
        assert Checkpoints(folder).find()[0] == "step-00000003"
        with pytest.raises(Ended):
            finetune.run(recipe, workspace, dataset, Events(None, [send(number, 5, times=2)]), run="r")
        assert Checkpoints(folder).find()[0] == "step-00000003", "the second signal stops at once"
    finally:
        signal.signal(number, before)
    assert finetune.run(recipe, workspace, dataset, Events(), run="r").store_key == whole.store_key


def test_signals_are_left_alone_where_they_cannot_or_should_not_be_held():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    found = []

    def elsewhere():
        with Interrupt() as interrupt:
            found.append((signal.getsignal(signal.SIGTERM), interrupt.asked))

    other = threading.Thread(target=elsewhere)
    other.start()
    other.join()
    assert found == [(signal.getsignal(signal.SIGTERM), None)]


@pytest.fixture
def stopped(recipe_of, workspace):
    """A run that broke off at step 10, with checkpoints of steps 8 and 9, and the outcome it should have."""

    class Stopped(Exception):
        pass

    def stop(event):
        if (event["kind"], event["message"]) == ("progress", "train") and event["done"] == 10:
            raise Stopped

    recipe = recipe_of(checkpoint_every=1)
    dataset = make_dataset(workspace, recipe, make_rows(80))
    whole = finetune.run(recipe, workspace, dataset, Events(), run="whole")
    with pytest.raises(Stopped):
        finetune.run(recipe, workspace, dataset, Events(None, [stop]), run="r")
    folder = workspace.run_folder("r")
    assert sorted(path.name for path in (folder / "checkpoints").glob("step-*")) == ["step-00000008", "step-00000009"]

    def go_on():
        heard = []
        made = finetune.run(recipe, workspace, dataset, Events(None, [heard.append]), run="r")
        return made.store_key == whole.store_key and made.curve == whole.curve, [e for e in heard if e["kind"] == "warning"], [e for e in heard if "resumed at" in e["message"]]

    return folder, go_on, recipe_of, workspace


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", MANIFEST])
def test_a_damaged_checkpoint_is_named_and_the_next_older_one_taken(stopped, name):
    folder, go_on, *_ = stopped
    flip(folder / "checkpoints" / "step-00000009" / name, 40)
    same, warnings, resumed = go_on()
    assert same
    assert warnings[0]["refused"] == "step-00000009"
    assert (name in warnings[0]["why"]) or name == MANIFEST
    assert "step-00000008" in warnings[1]["message"]
    assert resumed[0]["step"] == 8
    assert [path.name[:21] for path in (folder / "checkpoints").glob("refused-*")] == ["refused-step-00000009"], "it is kept for a person to look at"
    assert go_on()[1] == []


def test_when_all_are_damaged_the_run_says_so_and_starts_from_the_beginning(stopped):
    folder, go_on, *_ = stopped
    for step in (8, 9):
        flip(folder / "checkpoints" / f"step-{step:08d}" / "state.safetensors")
    same, warnings, resumed = go_on()
    assert same
    assert [event["refused"] for event in warnings] == ["step-00000009", "step-00000008", 2]
    assert "starts from the beginning" in warnings[2]["message"]
    assert resumed == []


def test_damaged_best_weights_and_a_damaged_plan_are_noticed(stopped):
    folder, go_on, *_ = stopped
    flip(folder / "plan.json", 30)
    same, warnings, resumed = go_on()
    assert same
    assert resumed
    assert warnings[0]["refused"] == "plan.json"
    assert go_on()[1] == [], "the plan was written again"
    for path in (folder / "checkpoints").glob("best-*"):
        flip(path / "state.safetensors")
    same, warnings, resumed = go_on()
    assert same
    assert warnings[0]["refused"].startswith("best-")
    assert resumed == []


def test_a_clean_resume_warns_of_nothing(stopped):
    same, warnings, resumed = stopped[1]()
    assert same
    assert warnings == []
    assert resumed[0]["step"] == 9


def test_best_weights_that_rot_before_the_end_are_not_used(kept):
    kept.save_best(1, {"w": torch.zeros(4)})
    assert kept.best(1)["w"].tolist() == [0, 0, 0, 0]
    flip(kept.folder / "best-00000001" / "state.safetensors")
    with pytest.raises(IntegrityError, match="best weights are damaged"):
        kept.best(1)


def test_best_weights_that_no_checkpoint_refers_to_yet_are_made_again(kept):
    """A kill between the best weights and their checkpoint."""
    for step in (1, 2):
        kept.save_best(step, {"w": torch.full((4,), float(step))})
        kept.save(step, {"w": torch.zeros(4)}, facts(step, step))
    kept.save_best(3, {"w": torch.zeros(4)})
    assert kept.find()[0] == "step-00000002"
    kept.go_on_after(2)
    assert sorted(path.name for path in kept.folder.iterdir()) == ["best-00000001", "best-00000002", "step-00000001", "step-00000002"]
    kept.save_best(3, {"w": torch.ones(4)})
    assert kept.best(3)["w"].tolist() == [1, 1, 1, 1]


def test_a_checkpoint_of_another_recipe_is_not_gone_on_from(stopped):
    _, _, recipe_of, workspace = stopped
    other = recipe_of(checkpoint_every=1, learning_rate=1e-3)
    with pytest.raises(DataError, match="another recipe"):
        finetune.run(other, workspace, make_dataset(workspace, other, make_rows(80)), Events(), run="r")


def test_what_is_written_is_what_the_format_says(tmp_path):
    """Our writer and the library's, read by the library."""
    tensors = {
        "b": torch.tensor([True, False, True]),
        "step": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "turned": torch.arange(6, dtype=torch.float64).reshape(2, 3).t(),
        "half": torch.randn(3, 3).to(torch.bfloat16),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "whole": torch.arange(7),
        "tree/ä": torch.arange(3, dtype=torch.int32),
    }
    write_tensors(tmp_path / "own.safetensors", tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs.safetensors")
    own, theirs = load_file(tmp_path / "own.safetensors"), load_file(tmp_path / "theirs.safetensors")
    assert own.keys() == theirs.keys()
    for name in tensors:
        assert own[name].dtype == theirs[name].dtype
        assert torch.equal(own[name], theirs[name])
    with pytest.raises(PlugError, match="complex64"):
        write_tensors(tmp_path / "no.safetensors", {"c": torch.zeros(1, dtype=torch.complex64)})
