"""A method says what trains, and what it writes brings the same answers back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from attune.core.commit import MANIFEST, seal
from attune.core.errors import AttuneError
from attune.core.models import resolve_base
from attune.core.specialist import open_bundle
from attune.testing.bench import Bench, plain
from attune.testing.kinds._compare import same

if TYPE_CHECKING:
    from attune.core.learner import Learner
    from attune.core.specialist import Specialist
    from attune.testing.suite import Subject

PER_TASK = True
CODE_CAPABLE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt", ".npy", ".npz", ".py")


def _prepared(subject: Subject) -> Specialist:
    return subject.bench.prepared(subject.plug)


def _own_learner(subject: Subject) -> Learner | None:
    """A fresh learner of the method's own; None: gradient descent by the loop."""
    bench, specialist = subject.bench, _prepared(subject)
    objective = bench.objective()
    found: Learner | None = subject.plug.learner(bench.context(objective, specialist, bench.examples(objective, specialist)))
    return found


def check_something_trains_and_the_same_each_time(subject: Subject) -> None:
    """`prepare` leaves at least one parameter to train; the same seed gives the same start, another may differ."""
    import torch

    first, again = _prepared(subject).model, _prepared(subject).model
    if _own_learner(subject) is not None:
        rows = subject.bench.questions()
        same(_prepared(subject).predict(rows), _prepared(subject).predict(rows), subject.bench.test, "prepared twice")
        return
    trained = {name: p for name, p in first.named_parameters() if p.requires_grad}
    assert trained, "nothing trains"
    others = dict(again.named_parameters())
    assert {name for name, p in others.items() if p.requires_grad} == set(trained), "preparing twice trains different parameters"
    differ = [name for name, p in first.named_parameters() if not torch.equal(p, others[name])]
    assert not differ, f"preparing twice with one seed gives different weights: {', '.join(differ[:3])}"


def check_only_what_it_marks_moves(subject: Subject) -> None:
    """Training moves marked parameters and no other; the answers change with them."""
    import torch

    bench, specialist = subject.bench, _prepared(subject)
    if _own_learner(subject) is not None:
        untuned = specialist.predict(bench.questions())
        bench.learn(bench.objective(), specialist)
        assert specialist.predict(bench.questions()) != untuned, "training moved nothing"
        return
    marked = {name for name, p in specialist.model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in specialist.model.named_parameters()}
    bench.learn(bench.objective(), specialist)
    moved = {name for name, p in specialist.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved, "training moved nothing"
    assert moved <= marked, f"these moved and are not marked: {', '.join(sorted(moved - marked)[:3])}"


def check_a_learner_of_its_own_goes_on_as_if_never_stopped(subject: Subject) -> None:
    """State taken at any step and given to a new learner leads to the same weights and losses, bit for bit."""
    import torch

    whole = _own_learner(subject)
    if whole is None:
        return
    whole.begin()
    losses = [whole.step(index) for index in range(9)]
    for stopped in (0, 1, 4):
        first, second = _own_learner(subject), _own_learner(subject)
        assert first is not None
        assert second is not None
        first.begin()
        for index in range(stopped):
            first.step(index)
        tensors, facts = first.state()
        second.load_state(tensors, plain(facts))
        assert [second.step(index) for index in range(stopped, 9)] == losses[stopped:], f"stopped after step {stopped}, it learns otherwise"
        for what, one, other in (("state", whole.state()[0], second.state()[0]), ("weights", whole.weights(), second.weights())):
            assert set(one) == set(other), f"the {what} hold other tensors"
            differ = [name for name in one if not torch.equal(one[name], other[name])]
            assert not differ, f"stopped after step {stopped}, it ends with other {what}: {', '.join(differ[:3])}"


def check_what_it_writes_answers_the_same(subject: Subject) -> None:
    """A tuned model written and opened again gives the same answers, and they are not those of the untuned one."""
    bench = subject.bench
    specialist = bench.tuned(subject.plug)
    folder = bench.bundle(specialist, subject.folder / "bundle")
    same(specialist.predict(bench.questions()), open_bundle(folder).predict(bench.questions()), bench.test, "before and after the disk")
    found = [path.name for path in folder.rglob("*") if path.suffix in CODE_CAPABLE]
    assert not found, f"it writes files that can carry code: {', '.join(found)}"


def check_needs_its_base_or_does_not(subject: Subject) -> None:
    """With `needs_base` a bundle is refused when the base is not the one it was tuned from; without it opens with no base at all."""
    bench = subject.bench
    moved = subject.folder / "base"
    shutil.copytree(bench.base.folder, moved)
    own = Bench(bench.task, resolve_base(str(moved)), bench.records, subject.folder)
    folder = own.bundle(own.tuned(subject.plug), subject.folder / "bundle")
    config = min(moved.glob("*.json"))
    config.write_text(config.read_text() + " ")
    if subject.plug.needs_base:
        try:
            open_bundle(folder)
        except AttuneError:
            return
        raise AssertionError("another base was taken without a word")
    shutil.rmtree(moved)
    assert len(open_bundle(folder).predict(bench.questions())) == len(bench.test)


def check_a_missing_weight_is_noticed(subject: Subject) -> None:
    """A bundle that lacks a weight file, or one tensor of it, is refused and not answered from (its manifest made to agree)."""
    bench = subject.bench
    folder = bench.bundle(bench.tuned(subject.plug), subject.folder / "bundle")
    found = sorted(folder.rglob("*.safetensors")) or sorted(path for path in (folder / "model").rglob("*") if path.is_file() and path.suffix != ".json")
    assert found, "it writes no weights"
    for weights in found:
        for part in ("all of", "one tensor of"):
            name = weights.relative_to(folder).as_posix()
            damaged = subject.folder / f"without {part} {weights.stem}"
            shutil.copytree(folder, damaged)
            _damage(damaged / name, whole=part == "all of")
            (damaged / MANIFEST).unlink()
            seal(damaged)
            refused = False
            try:
                open_bundle(damaged)
            except (AttuneError, OSError, ValueError, KeyError):
                refused = True
            assert refused, f"it opens without {part} {name}"


def _damage(weights: Path, *, whole: bool) -> None:
    """Remove a weight file, or its largest tensor that is not the only one; of a file without tensors its second half."""
    from safetensors.torch import load_file, save_file

    if weights.suffix != ".safetensors":
        half = weights.read_bytes()[: weights.stat().st_size // 2]
        weights.unlink()
        if not whole:
            weights.write_bytes(half)
        return
    tensors = load_file(weights)
    weights.unlink()
    if not whole and len(tensors) > 1:
        del tensors[max(tensors, key=lambda name: (tensors[name].numel(), name))]
        save_file(tensors, weights, metadata={"format": "pt"})
