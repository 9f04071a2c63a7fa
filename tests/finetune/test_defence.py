"""A run defends itself against numbers that are none, jumps, and memory that runs out; each detector has a twin that must stay silent."""

from __future__ import annotations

import math

import psutil
import pytest
import torch

from attune.catalog.objectives.supervised import Supervised
from attune.core.errors import DataError, MachineError
from attune.core.events import Events
from attune.core.memory import give_back, in_parts, ran_out
from attune.stages import finetune
from attune.stages.finetune.defence import Watchman, diverging, overfitting

from .conftest import make_dataset, make_rows
from .test_resume import Stopped, stop_at

LOSS = Supervised.loss


def run(recipe_of, workspace, events=None, name="r", rows=96, **train):
    recipe = recipe_of("full", average=0, warmup_ratio=0, **{"learning_rate": 1e-3, "epochs": 3, **train})
    told = []
    checkpoint = finetune.run(recipe, workspace, make_dataset(workspace, recipe, make_rows(rows)), events or Events(None, [told.append]), run=name)
    return checkpoint, [event for event in told if event["kind"] == "warning"]


def poisoned(monkeypatch, when, value=math.nan, rows=False):
    """Losses become `value` times as large where `when(call, batch)` says so, while training; single rows only with `rows`."""
    calls = []

    def loss(self, model, batch):
        total, items = LOSS(self, model, batch)
        if model.training and (len(batch["target"]) > 1 or rows):
            calls.append(1)
            if when(len(calls), batch):
                total = total * value
        return total, items

    monkeypatch.setattr(Supervised, "loss", loss)
    return calls


def test_a_clean_run_is_left_alone(recipe_of, workspace):
    checkpoint, warnings = run(recipe_of, workspace)
    assert warnings == []
    assert "went back" not in checkpoint.chosen


def test_rows_whose_loss_is_no_number_are_named_and_left_out(recipe_of, workspace, monkeypatch):
    recipe = recipe_of("full")
    rows = make_rows(96)
    examples = recipe.objective.examples  # keys of the rows to poison
    bad = []

    def remember(self, specialist, given, max_length):
        found = examples(specialist, given, max_length)
        if len(found) > 40:
            bad[:] = [found[3], found[20]]
        return found

    monkeypatch.setattr(Supervised, "examples", remember)
    poisoned(monkeypatch, lambda call, batch: any(one["key"] in batch["keys"].tolist() for one in bad), rows=True)
    checkpoint, warnings = run(recipe_of, workspace)
    named = {name for event in warnings for name in event.get("rows", [])}
    assert {one["row_id"] for one in bad} <= named
    assert len(named) <= 2 + sum(row["text"] in {one["text"] for one in bad} for row in rows)
    assert "went back" not in checkpoint.chosen
    assert all(math.isfinite(point["validation_loss"]) for point in checkpoint.curve)


def test_a_step_that_is_no_number_without_guilty_rows_is_skipped(recipe_of, workspace, monkeypatch):
    poisoned(monkeypatch, lambda call, batch: call == 12)
    checkpoint, warnings = run(recipe_of, workspace)
    assert any("was skipped: the loss is nan" in event["message"] for event in warnings)
    assert all(math.isfinite(point["validation_loss"]) for point in checkpoint.curve)


def test_a_jump_is_skipped(recipe_of, workspace, monkeypatch):
    poisoned(monkeypatch, lambda call, batch: call == 16, value=1000.0)
    _, warnings = run(recipe_of, workspace)
    assert any("the loss jumped to" in event["message"] for event in warnings)


def test_without_the_watchman_a_jump_would_be_learned(recipe_of, workspace, monkeypatch):
    """The must-fail twin: the same poison moves the weights when nobody judges."""
    clean, _ = run(recipe_of, workspace, name="clean", max_gradient_norm=1e9)
    poisoned(monkeypatch, lambda call, batch: call == 16, value=-1000.0)
    monkeypatch.setattr(Watchman, "judge", lambda self, *_: None)
    moved, _ = run(recipe_of, workspace, name="moved", max_gradient_norm=1e9)
    assert moved.curve[-1] != clean.curve[-1]


def test_three_skips_send_the_run_back_once_with_a_lower_rate(recipe_of, workspace, monkeypatch):
    poisoned(monkeypatch, lambda call, batch: 14 <= call <= 16)
    rates = []
    told = []
    recipe = recipe_of("full", average=0, warmup_ratio=0, learning_rate=1e-3, epochs=3, scheduler="constant")
    events = Events(None, [told.append, lambda event: rates.append(event["learning_rate"]) if (event["kind"], event["message"]) == ("progress", "train") else None])
    checkpoint = finetune.run(recipe, workspace, make_dataset(workspace, recipe, make_rows(96)), events, run="r")
    assert "half the learning rate" in checkpoint.chosen["went back"]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(5e-4)
    assert checkpoint.steps == 27  # every step of the plan was made
    assert sum("back to step" in event.get("message", "") for event in told) == 1


def test_the_second_time_it_stops_with_a_diagnosis(recipe_of, workspace, monkeypatch):
    poisoned(monkeypatch, lambda call, batch: call >= 14)
    with pytest.raises(DataError, match=r"not steady at step .*halved already"):
        run(recipe_of, workspace)


def test_what_was_skipped_and_banned_survives_a_resume(recipe_of, workspace, monkeypatch):
    recipe = recipe_of("full", average=0, checkpoint_every=4)
    dataset = make_dataset(workspace, recipe, make_rows(80))
    banned = []

    def loss(self, model, batch):
        total, items = LOSS(self, model, batch)
        if not banned:
            banned.append(int(batch["keys"][0]))
        return total * (math.nan if banned[0] in batch["keys"].tolist() and model.training else 1), items

    monkeypatch.setattr(Supervised, "loss", loss)
    whole = finetune.run(recipe, workspace, dataset, Events(), run="whole")
    for step in (6, 9):
        with pytest.raises(Stopped):
            finetune.run(recipe, workspace, dataset, stop_at(step), run="broken")
    told = []
    again = finetune.run(recipe, workspace, dataset, Events(None, [told.append]), run="broken")
    assert again.store_key == whole.store_key
    assert not any("no number" in event.get("message", "") for event in told)  # it knew the row already


def test_smaller_parts_when_memory_runs_out(recipe_of, workspace, monkeypatch):
    clean, _ = run(recipe_of, workspace, name="clean")

    def loss(self, model, batch):
        if model.training and len(batch["target"]) > 3:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 123 bytes.")
        return LOSS(self, model, batch)

    monkeypatch.setattr(Supervised, "loss", loss)
    checkpoint, warnings = run(recipe_of, workspace)
    assert [event["message"].split(": ", 1)[1] for event in warnings] == [
        "4 rows are computed at once from here on, before it was 8; the batch of 8 stays",
        "2 rows are computed at once from here on, before it was 4; the batch of 8 stays",
    ]
    assert checkpoint.steps == clean.steps
    assert [point["loss"] for point in checkpoint.curve[1:]] == pytest.approx([point["loss"] for point in clean.curve[1:]], rel=1e-3)


def test_when_one_row_does_not_fit_it_says_what_would(recipe_of, workspace, monkeypatch):
    def loss(self, model, batch):
        raise MemoryError

    monkeypatch.setattr(Supervised, "loss", loss)
    with pytest.raises(MachineError, match="memory ran out with 1 row at once"):
        run(recipe_of, workspace)


def test_another_error_is_not_taken_for_memory(recipe_of, workspace, monkeypatch):
    def loss(self, model, batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Supervised, "loss", loss)
    with pytest.raises(RuntimeError, match="shapes"):
        run(recipe_of, workspace)


def test_parts_keep_the_order_and_stop_at_one():
    def work(items):
        if len(items) > 2:
            raise MemoryError
        return [item * 2 for item in items]

    sizes = []
    assert in_parts(work, list(range(9)), sizes.append) == [2 * i for i in range(9)]
    assert sizes[0] == 5
    with pytest.raises(MemoryError):
        in_parts(lambda items: (_ for _ in ()).throw(MemoryError), [1, 2])
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory"))
    assert not ran_out(ValueError("out of memory"))


def test_a_run_that_knows_its_rows_by_heart_has_no_spikes():
    """Losses far below the start may jump by any factor; above the start a jump is a spike."""
    watchman = Watchman()
    for step in range(60):
        assert watchman.judge(step, 2.0 * 0.8**step, 1.0 * 0.8**step) is None
    assert watchman.judge(60, 0.5, 1.0) is None
    assert "jumped" in watchman.judge(61, 50.0, 30.0)
    watchman.went_back()
    assert watchman.judge(62, 50.0, 30.0) is None  # with the lower rate it is learned from, its gradient cut
    assert "nan" in watchman.judge(63, math.nan, 1.0)


def test_a_loss_around_zero_has_no_jumps_and_gradients_of_no_length_are_passed_over():
    """As group relative rewards give them: most groups agree and teach nothing, and the sign of the others' loss is chance."""
    taught = [0.0 if step % 5 else 0.5 + step % 3 for step in range(120)]
    losses = [1e-8 * (-1) ** step if norm == 0 else 0.3 * (-1) ** step for step, norm in enumerate(taught)]
    told = {falls: [Watchman.judge(watchman, *one) for one in zip(range(120), losses, taught, strict=True)] for falls in (True, False) for watchman in [Watchman(falls)]}
    assert any(told[True])  # the must-fail twin: read as a size, such a loss jumps
    assert not any(told[False])


def test_without_a_size_what_is_no_number_and_an_explosion_are_still_seen():
    watchman = Watchman(loss_falls=False)
    for step in range(60):
        assert watchman.judge(step, 0.01 * (-1) ** step, 0.0 if step % 4 else 0.2) is None
    assert "the loss is nan" in watchman.judge(60, math.nan, 0.2)
    assert "the gradient's length is inf" in watchman.judge(61, 0.01, math.inf)
    assert watchman.judge(62, -0.5, 4.0) is None
    assert "jumped to 400" in watchman.judge(63, 0.01, 400.0)
    assert watchman.must_go_back()


def test_curves_of_a_loss_that_is_no_size_raise_no_alarm(recipe_of, workspace, monkeypatch):
    monkeypatch.setattr(finetune.stage, "diverging", lambda curve: "diverging: planted")
    assert any("planted" in event["message"] for event in run(recipe_of, workspace, name="a size", epochs=1)[1])
    monkeypatch.setattr(Supervised, "loss_falls", False)
    assert run(recipe_of, workspace, name="no size", epochs=1)[1] == []


def test_a_batch_whose_rows_are_all_left_out_is_passed_over(recipe_of, workspace):
    from .test_loop import learner_of

    learner = learner_of(recipe_of(), workspace, make_rows(20))
    learner.watchman.banned = {one["row_id"]: "planted" for one in learner.batch_at(0)}
    report = learner.step(0)
    assert "left out" in report["skipped"]
    assert set(report["rows"]) == learner.left_out
    assert not learner.watchman.skipped  # that is no reason to go back


def test_going_back_to_the_start_forgets_the_optimizer(recipe_of, workspace):
    from .test_loop import learner_of

    learner = learner_of(recipe_of(), workspace, make_rows(20))
    tensors, facts = learner.state()
    start = {name: tensor.clone() for name, tensor in tensors.items()}
    learner.step(0)
    once = {name: tensor.clone() for name, tensor in learner.state()[0].items()}
    learner.load_state(start, facts)
    learner.step(0)
    again = learner.state()[0]
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_freed_memory_is_given_back():
    blocks = [bytearray(100_000) for _ in range(3000)]
    keep = blocks[::100]  # the holes between them cannot be given back by themselves
    before = psutil.Process().memory_info().rss
    del blocks
    done = give_back(50_000_000)
    assert len(keep) == 30
    if done:  # glibc
        assert psutil.Process().memory_info().rss < before - 100_000_000
    assert not give_back(1 << 40)


def curve(losses, validation):
    return [{"step": float(i), "epoch": float(i), "loss": a, "validation_loss": b, "learning_rate": 1e-4} for i, (a, b) in enumerate(zip(losses, validation, strict=True))]


def test_overfitting_is_told_and_a_good_run_is_not():
    assert "overfitting" in overfitting(curve([1, 0.5, 0.3, 0.2], [0.9, 0.6, 0.7, 0.8]))
    assert overfitting(curve([1, 0.5, 0.3, 0.2], [0.9, 0.6, 0.55, 0.54])) is None
    assert overfitting(curve([1, 0.5, 0.3, 0.2], [0.9, 0.6, 0.605, 0.61])) is None  # within 5% of the best: nothing to speak of
    assert overfitting(curve([1, 0.5], [0.9, 1.2])) is None


def test_divergence_is_told_and_a_good_run_is_not():
    assert "lower train.learning_rate" in diverging(curve([1, 1.1, 1.3], [1, 1.1, 1.3]))
    assert diverging(curve([1, 0.8, 0.9, 0.95], [1, 1, 1, 1])) is None
    assert diverging(curve([1, 0.8, 0.6], [1, 1, 1])) is None


def drift(losses, falls=True):
    """Steps after which the watchman speaks of drifting."""
    watchman, told = Watchman(falls), []
    for step, loss in enumerate(losses):
        assert watchman.judge(step, loss, 1.0) is None
        again = Watchman(falls)
        again.load(watchman.facts())  # as a run that goes on from a checkpoint
        watchman = again
        if said := watchman.drifting(1e-4):
            told.append((step, said))
    return told


def test_losses_that_rise_within_a_pass_are_told_once():
    told = drift([1 + 0.02 * step for step in range(80)])
    assert len(told) == 1
    assert "lower train.learning_rate (it is 1.0e-04 now)" in told[0][1]
    draw = torch.Generator().manual_seed(5)
    noise = [0.15 * float(torch.randn((), generator=draw)) for _ in range(400)]
    assert drift([1 + one for one in noise]) == []
    assert drift([0.3 + 0.7 * 0.98**step + one / 3 for step, one in enumerate(noise)]) == []
    assert drift([0.2 + min(0.9, 0.02 * step) for step in range(12)]) == []  # too few steps to tell
    assert drift([1 + 0.02 * step for step in range(80)], falls=False) == []


def test_a_run_of_one_pass_that_gets_worse_is_told(recipe_of, workspace, monkeypatch):
    calls = []

    def worse(self, model, batch):
        total, items = LOSS(self, model, batch)
        calls.append(model.training)
        return total * (1 + 0.03 * sum(calls)) if model.training else total, items

    assert not [event for event in run(recipe_of, workspace, name="clean", rows=400, epochs=1, batch_size=8)[1] if "diverging" in event["message"]]
    monkeypatch.setattr(Supervised, "loss", worse)
    told = [event for event in run(recipe_of, workspace, name="worse", rows=400, epochs=1, batch_size=8, learning_rate=1e-7, head_learning_rate=1e-7)[1] if "diverging" in event["message"]]
    assert len(told) == 1
