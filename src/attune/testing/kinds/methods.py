"""A method says what trains, and what it writes brings the same answers back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from attune.core.commit import MANIFEST, seal
from attune.core.errors import AttuneError
from attune.core.models import resolve_base
from attune.core.specialist import open_bundle
from attune.testing.bench import Bench
from attune.testing.kinds._compare import same

if TYPE_CHECKING:
    from attune.core.specialist import Specialist
    from attune.testing.suite import Subject

PER_TASK = True
CODE_CAPABLE = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt", ".npy", ".npz", ".py")


def _prepared(subject: Subject) -> Specialist:
    return subject.bench.prepared(subject.plug)


def check_something_trains_and_the_same_each_time(subject: Subject) -> None:
    """`prepare` leaves at least one parameter to train; the same seed gives the same start, another may differ."""
    import torch

    first, again = _prepared(subject).model, _prepared(subject).model
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
    marked = {name for name, p in specialist.model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in specialist.model.named_parameters()}
    bench.learn(bench.objective(), specialist)
    moved = {name for name, p in specialist.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved, "training moved nothing"
    assert moved <= marked, f"these moved and are not marked: {', '.join(sorted(moved - marked)[:3])}"


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
    config = moved / "config.json"
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
    for weights in sorted(folder.rglob("*.safetensors")):
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
    """Remove a weight file, or its largest tensor that is not the only one."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    weights.unlink()
    if not whole and len(tensors) > 1:
        del tensors[max(tensors, key=lambda name: (tensors[name].numel(), name))]
        save_file(tensors, weights, metadata={"format": "pt"})
