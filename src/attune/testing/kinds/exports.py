"""What an export writes answers as the release does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attune.core.certificate import replayed
from attune.core.errors import IntegrityError, PlugError
from attune.core.parity import voice_of
from attune.testing.bench import fitting
from attune.testing.export_faults import planted
from attune.testing.kinds._compare import same

if TYPE_CHECKING:
    from attune.core.specialist import Specialist
    from attune.testing.suite import Subject

PER_TASK = True
PLANTED = ("swapped tensor", "changed template")


def _wrong(subject: Subject, written: Specialist, name: str) -> list[str] | None:
    """What is wrong with an export of `written`, judged against the bench's specialist; None for formats that are not heard token by token."""
    bench, plug = subject.bench, subject.plug
    own = bench.tuned()
    bundle, target = bench.bundle(own, subject.folder / f"bundle {name}"), subject.folder / f"exported {name}"
    target.mkdir()
    plug.write(written, bundle, target)
    assert any(target.iterdir()), "it wrote nothing"
    if "text-out" not in bench.task.traits or (voice := plug.voice(target)) is None:
        same(own.predict(bench.questions()), plug.replay(target, bench.questions()), bench.test, "the specialist and the exported form")
        return None
    voice.close()
    assert len(plug.replay(target, bench.questions())) == len(bench.test), "not every row is answered"
    try:
        return [one["why"] for one in replayed(plug, target, own, voice_of(own), [], bench.test)["disagreements"]]
    except IntegrityError as error:
        return [str(error)]


def check_replay_agrees(subject: Subject) -> None:
    """The exported form gives the specialist's answers, token by token where it can be heard so; for some tasks it may be refused."""
    refused: PlugError | None = None
    wrong = None
    try:
        wrong = _wrong(subject, subject.bench.tuned(), "good")
    except PlugError as error:
        refused = error
    if refused is not None:
        assert refused.fix, f"it refuses without a way out: {refused}"
        assert subject.name not in subject.bench.task.defaults.exports, f"the task takes it by default and it refuses: {refused}"
        assert [name for name in fitting(subject.plug.requires) if name != subject.task], "it refuses the only task it fits"
    assert not wrong, f"an honest export is refused: {wrong[0]}"


def check_planted_faults_are_refused(subject: Subject) -> None:
    """An export of a model with a fault is not taken for the tuned model."""
    own = subject.bench.tuned()
    if "text-out" not in subject.bench.task.traits or subject.plug.limits() is None:
        return
    for fault in PLANTED:
        assert _wrong(subject, planted(fault, own, subject.folder / f"base {fault}"), fault), f"an export with a fault passes: {fault}"


def check_replay_reads_what_was_written(subject: Subject) -> None:
    """Without the exported files there are no answers: the replay asks the folder and not the original."""
    empty = subject.folder / "empty"
    empty.mkdir()
    try:
        subject.plug.replay(empty, subject.bench.questions())
    except Exception:
        return
    raise AssertionError("an empty folder answered")
